"""Open text files that other people wrote, in whatever encoding, and read their lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from datamodules.usage_error import UsageError

UNDECODABLE = '\udcff'  # stands for bytes that are not text: no valid text decodes to it
MAX_LINE_CHARACTERS = 1 << 17  # the csv module refuses longer fields
_HEAD_BYTES = 64  # that tell the encoding
_ENCODINGS = {  # by byte order mark; that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF32_LE: 'utf-32',
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}
_OTHER_FILES = {  # by their first bytes
    b'\x1f\x8b': 'gzip',
    b'BZh91AY&SY': 'bzip2',
    b'\xfd7zXZ\x00': 'xz',
    b'\x28\xb5\x2f\xfd': 'Zstandard',
    b'\x04\x22\x4d\x18': 'LZ4',
    b'7z\xbc\xaf': '7-Zip',
    b'PK\x03\x04': 'ZIP or Excel',
    b'\xd0\xcf\x11\xe0': 'Excel',
    b'PAR1': 'Parquet',
    b'ARROW1': 'Arrow',
}

codecs.register_error('clipward.mark', lambda error: (UNDECODABLE, getattr(error, 'end', 0)))


@contextmanager
def open_text(path: Path, source: str) -> Iterator[TextIO]:
    """Opens a text file in UTF-8, UTF-16 or UTF-32, with line ends as they are.

    Bytes that are not text are read as :data:`UNDECODABLE`.

    Args:
        path: The file.
        source: What is read, as ``data.<argument>=<value>``.

    Raises:
        UsageError: If it is not a readable file, or not a text file.
    """
    try:
        if not path.is_file():
            raise UsageError(f'{source} is not a regular file: name the file that lists the pairs.')
        with path.open('rb') as binary:
            encoding = _find_encoding(binary.read(_HEAD_BYTES), source)
        with path.open(newline='', encoding=encoding, errors='clipward.mark') as file:
            yield file
    except OSError as error:
        raise UsageError(f'{source} cannot be read: {error.strerror}.') from error


def _find_encoding(head: bytes, source: str) -> str:
    if kind := next((kind for begin, kind in _OTHER_FILES.items() if head.startswith(begin)), None):
        raise UsageError(f'{source} is a {kind} file, not text: unpack it, or convert it to text in UTF-8.')
    if encoding := next((encoding for mark, encoding in _ENCODINGS.items() if head.startswith(mark)), None):
        return encoding
    for order, part in (('be', head[::2]), ('le', head[1::2])):  # of UTF-16 without a mark, the bytes that are zero
        if len(part) > 1 and 2 * part.count(0) > len(part):
            return f'utf-16-{order}'
    return 'utf-8'


def read_text_lines(path: Path, source: str) -> Iterator[str]:
    """Yields the lines of a text file without their ends; of an overlong line only the first 131,072 characters."""
    with open_text(path, source) as file:
        while line := read_line(file):
            yield line.rstrip('\r\n')


def read_line(file: TextIO) -> str:
    """Reads a line, of an overlong one only the beginning, so that a file without line breaks fills no memory."""
    line = rest = file.readline(MAX_LINE_CHARACTERS)
    while len(rest) == MAX_LINE_CHARACTERS and not rest.endswith(('\n', '\r')):
        rest = file.readline(MAX_LINE_CHARACTERS)
    return line
