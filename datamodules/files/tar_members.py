"""Walks through a tar file that other people wrote and says where the content of each member lies.

Unlike :mod:`tarfile`, it reads no more of a header than it needs, a bounded number of bytes of any, and always forward.
So garbage in a field that does not matter ends nothing, and no header can make it hang or take memory. Nothing is
extracted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK = 512
_MAX_EXTENSION_BYTES = 1 << 20  # of the long name or the attributes of one member
_MAX_PADDING_BYTES = 1 << 20  # zeros that tar writes after the end of an archive
_FILES = (b'0', b'\0', b'7')
_WITHOUT_CONTENT = (b'1', b'2', b'3', b'4', b'5', b'6')  # links, devices, folders, pipes
_FOLDER, _SPARSE, _LONG_NAME, _ATTRIBUTES, _LONG_LINK, _GLOBAL = b'5', b'S', b'L', b'x', b'K', b'g'
_ATTRIBUTE = re.compile(rb'(\d{1,9}) ([^=]*)=')
_COMPRESSED = {b'\x1f\x8b': 'gzip', b'\x28\xb5\x2f\xfd': 'zstd', b'\xfd7zXZ': 'xz', b'BZh': 'bzip2', b'PK': 'zip'}


class DamagedTarError(ValueError):
    """The rest of a tar file cannot be read."""


class TarMember(NamedTuple):
    """A member of a tar file that is no folder.

    Attributes:
        name: Its name; bytes that are not UTF-8 are escaped.
        offset: First byte of its content in the file.
        size: Bytes of its content.
        is_file: Whether its content is that of an ordinary file: not a link, a device or a sparse file.
    """

    name: str
    offset: int
    size: int
    is_file: bool


def walk_members(file: BinaryIO) -> Iterator[TarMember]:
    """Yields the members of an opened tar file in their order.

    Raises:
        DamagedTarError: If the file is cut, broken, compressed, or no tar; after all members that come before.
        OSError: If the file cannot be read.
    """
    end, position = file.seek(0, os.SEEK_END), 0
    attributes: dict[bytes, bytes] = {}
    while any(block := _read(file, position, _BLOCK)):
        name, size, kind = _parse_header(block, position)
        size = _parse_size(attributes.get(b'size'), size, position)
        size = 0 if kind in _WITHOUT_CONTENT else size
        content = _content_offset(file, kind, block, position)
        if content + size > end:
            raise DamagedTarError(f'cut off at byte {end:,}, within a member')
        position, start = content + -(-size // _BLOCK) * _BLOCK, position
        if kind in (_LONG_NAME, _ATTRIBUTES, _LONG_LINK, _GLOBAL):
            attributes |= _read_attributes(file, kind, content, size, start)
            continue
        if kind != _FOLDER:
            is_sparse = any(key.startswith(b'GNU.sparse') for key in attributes)
            yield TarMember(_decode(attributes.get(b'path', name)), content, size, kind in _FILES and not is_sparse)
        attributes = {}
    _check_end(file, block, position)


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _parse_header(block: bytes, position: int) -> tuple[bytes, int, bytes]:
    """Returns the name, the size of the content, and the kind of the member."""
    if len(block) < _BLOCK or _parse_number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(' '):
        raise DamagedTarError(_describe(block, position))
    name = block[:100].partition(b'\0')[0]
    if block[257:263] == b'ustar\0' and (prefix := block[345:500].partition(b'\0')[0]):
        name = prefix + b'/' + name
    size, kind = _parse_number(block[124:136]), block[156:157]
    if size is None:
        raise DamagedTarError(f'broken header at byte {position:,}')
    return name, size, _FOLDER if kind == b'\0' and name.endswith(b'/') else kind


def _describe(block: bytes, position: int) -> str:
    if position:
        return f'broken header at byte {position:,}'
    compression = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None)
    return 'not a tar file' if compression is None else f'compressed with {compression}, unpack it'


def _parse_number(field: bytes) -> int | None:
    """Reads an octal number, or a positive one of 256 digits, which GNU writes where octal digits do not suffice."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], 'big')
    digits = field.partition(b'\0')[0].strip()
    return int(digits or b'0', 8) if re.fullmatch(b'[0-7]*', digits) else None


def _parse_size(attribute: bytes | None, size: int, position: int) -> int:
    if attribute is None:
        return size
    if not re.fullmatch(rb'\d{1,18}', attribute):
        raise DamagedTarError(f'broken size at byte {position:,}')
    return int(attribute)


def _content_offset(file: BinaryIO, kind: bytes, block: bytes, position: int) -> int:
    """Skips the blocks of an old sparse file that say where its holes are; each tells whether another one follows."""
    content, more = position + _BLOCK, kind == _SPARSE and block[482]
    while more:
        block = _read(file, content, _BLOCK)
        content, more = content + _BLOCK, len(block) == _BLOCK and block[504]
    return content


def _read_attributes(file: BinaryIO, kind: bytes, content: int, size: int, position: int) -> dict[bytes, bytes]:
    """Reads the attributes that belong to the next member, such as a name of over 100 bytes."""
    if kind in (_LONG_LINK, _GLOBAL):
        return {}
    if size > _MAX_EXTENSION_BYTES:
        raise DamagedTarError(f'{size:,} bytes of attributes at byte {position:,}')
    data = _read(file, content, size)
    return {b'path': data.partition(b'\0')[0]} if kind == _LONG_NAME else _parse_attributes(data)


def _parse_attributes(data: bytes) -> dict[bytes, bytes]:
    """Parses records ``<bytes of the record> <key>=<value><line break>``, up to the first that is malformed."""
    attributes, position = {}, 0
    while match := _ATTRIBUTE.match(data, position):
        position += int(match[1])
        if position <= match.end():
            break
        attributes[match[2]] = data[match.end() : position - 1].partition(b'\0')[0]
    return attributes


def _decode(name: bytes) -> str:
    return name.decode('utf-8', 'backslashreplace')


def _check_end(file: BinaryIO, block: bytes, position: int) -> None:
    """Detects a file that is cut between two members, and archives that are strung together."""
    if not block:
        raise DamagedTarError(f'cut off at byte {position:,}, before the end mark' if position else 'empty')
    if any(_read(file, position, _MAX_PADDING_BYTES)):
        raise DamagedTarError(f'more bytes follow the end mark at byte {position:,}')
