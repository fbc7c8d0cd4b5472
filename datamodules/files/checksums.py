"""Checksums at the end of a cache file, which tell on opening whether it was cut, emptied or changed.

A file is its content and, after it, a CRC-32 of each block of 16 MiB, the content's length, and a CRC-32 of these.
A file of up to 1 GiB is read whole when it is opened (0.4 s): any change is noticed. Of a larger file its length, its
checksums, its first and last block and 62 blocks at random are checked, others each time. That notices a cut, a file of
something else, and damage that is spread out (a tenth of the blocks: 999 times in 1000), but hardly ever a single
changed bit of 100 GB.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datamodules.usage_error import UsageError

BLOCK_BYTES = 1 << 24
MAX_CHECKED_BLOCKS = 64  # 1 GiB, at zlib's 2 GB/s half a second
_MAGIC = b'ClipCRC1'
_FOOTER = struct.Struct('<8sQI')  # magic, bytes of content, CRC-32 of the blocks' checksums and that number


class DamagedFile(Exception):
    """A file that does not match its checksums."""


def trailer_bytes(content_bytes: int) -> int:
    """How many bytes :func:`append_checksums` appends to a file."""
    return 4 * _blocks(content_bytes) + _FOOTER.size


def append_checksums(path: Path, content_bytes: int | None = None) -> None:
    """Appends checksums to a file; what lies behind its content, such as reserved space, is overwritten.

    Args:
        path: The file.
        content_bytes: Length of the content; that of the file if ``None``.
    """
    size = path.stat().st_size if content_bytes is None else content_bytes
    with path.open('r+b') as file:
        sums = _checksums(file, range(_blocks(size)), size).astype('<u4').tobytes()
        file.seek(size)
        file.write(sums + _FOOTER.pack(_MAGIC, size, _footer_sum(sums, size)))
        file.truncate()


def check_content(path: Path) -> int:
    """Compares a file with its checksums and returns the length of its content in bytes.

    Raises:
        UsageError: If it was cut or changed, or has no checksums.
    """
    try:
        with path.open('rb') as file:
            return _checked_length(file)
    except DamagedFile as error:
        raise UsageError(f'{path} is damaged ({error}): delete it, and it will be made again.') from error


def _checked_length(file: BinaryIO) -> int:
    size, sums = _read_trailer(file)
    blocks = _blocks_to_check(len(sums))
    for block, expected, actual in zip(blocks, sums[blocks], _checksums(file, blocks, size), strict=True):
        if expected != actual:
            raise DamagedFile(f'the checksum of block {block:,} of {len(sums):,} is wrong')
    return size


def _read_trailer(file: BinaryIO) -> tuple[int, np.ndarray]:
    """Length of the content and checksum of each block, uint32."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _FOOTER.size))
    footer = file.read()
    if len(footer) < _FOOTER.size or not footer.startswith(_MAGIC):
        raise DamagedFile(
            f'its {end:,} bytes do not end in checksums: it was cut or changed, or is of an older version'
        )
    _, size, expected = _FOOTER.unpack(footer)
    if end != size + trailer_bytes(size):
        raise DamagedFile(f'it has {end:,} bytes instead of {size + trailer_bytes(size):,}')
    file.seek(size)
    sums = file.read(4 * _blocks(size))
    if _footer_sum(sums, size) != expected:
        raise DamagedFile('its list of checksums was changed')
    return size, np.frombuffer(sums, '<u4')


def _blocks_to_check(blocks: int) -> list[int]:
    """All blocks of a small file; of a large one the first, the last and a random choice that differs each time."""
    if blocks <= MAX_CHECKED_BLOCKS:
        return list(range(blocks))
    chosen = random.Random().sample(range(1, blocks - 1), MAX_CHECKED_BLOCKS - 2)  # leaves the global generator alone
    return [0, *sorted(chosen), blocks - 1]


def _checksums(file: BinaryIO, blocks: Sequence[int], size: int) -> np.ndarray:
    sums = np.empty(len(blocks), np.uint32)
    for number, block in enumerate(blocks):
        start = block * BLOCK_BYTES
        file.seek(start)
        sums[number] = zlib.crc32(file.read(min(BLOCK_BYTES, size - start)))
    return sums


def _footer_sum(sums: bytes, size: int) -> int:
    return zlib.crc32(sums + size.to_bytes(8, 'little'))


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES)
