"""Checksums at the end of a cache file, which reveal on opening whether it was truncated, emptied or changed.

The content of a file is followed by a CRC-32 of each block of 16 MiB, the length of the content, and a CRC-32 of these.
A file of up to 1 GiB is read completely when it is opened (0.4 s), so any change is noticed. Of a larger file, its
length, its list of checksums, its first and last block and 62 random blocks are checked, other ones each time. This
notices truncation, a file with other content, and widespread damage (if a tenth of the blocks is damaged, 999 times in
1000), but hardly ever a single changed bit in 100 GB.
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
    """Number of bytes that :func:`append_checksums` appends to a file."""
    return 4 * _blocks(content_bytes) + _FOOTER.size


def append_checksums(path: Path, content_bytes: int | None = None) -> None:
    """Appends checksums to the content of a file; anything after the content, such as reserved space, is removed.

    Args:
        path: The file.
        content_bytes: Length of the content; the length of the file if ``None``.
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
        UsageError: If the file was truncated or changed, has no checksums, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f'{path} is not a file: remove it, and a cache will be made under its name.')
    try:
        with path.open('rb') as file:
            return _checked_length(file)
    except DamagedFile as error:
        raise UsageError(f'{path} is damaged ({error}): delete it, and it will be made again.') from error
    except OSError as error:
        raise UsageError(
            f'{path} cannot be read ({error.strerror}): delete it, and it will be made again, or let it be read.'
        ) from error


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
            f'its {end:,} bytes do not end in checksums: it was truncated or changed, or comes from an older version'
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
    """All blocks of a small file; the first, the last and a random choice of a large one, different each time."""
    if blocks <= MAX_CHECKED_BLOCKS:
        return list(range(blocks))
    chosen = random.Random().sample(range(1, blocks - 1), MAX_CHECKED_BLOCKS - 2)  # does not use the global generator
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
