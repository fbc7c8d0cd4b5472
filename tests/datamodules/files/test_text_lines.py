from __future__ import annotations

import bz2
import gzip
import lzma
import os
from pathlib import Path

import pytest

from datamodules.files.text_lines import MAX_LINE_CHARACTERS, UNDECODABLE, open_text, read_text_lines
from datamodules.usage_error import UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / 'lines.txt'


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
def test_encodings_and_line_ends_do_not_matter(encoding: str, end: str, file: Path) -> None:
    file.write_bytes(end.join(['first', '', 'é, 犬 \u2028']).encode(encoding))
    assert [*read_text_lines(file, 'x')] == ['first', '', 'é, 犬 \u2028']


def test_bytes_that_are_not_text_are_marked(file: Path) -> None:
    file.write_bytes(b'caf\xe9\ntea')
    assert [*read_text_lines(file, 'x')] == [f'caf{UNDECODABLE}', 'tea']
    file.write_bytes('tea\n'.encode('utf-16') + b'x')  # half a character
    assert [*read_text_lines(file, 'x')] == ['tea', UNDECODABLE]


def test_only_the_beginning_of_an_overlong_line_is_read(file: Path) -> None:
    file.write_text('a' * 3 * MAX_LINE_CHARACTERS + '\nb')
    assert [*read_text_lines(file, 'x')] == ['a' * MAX_LINE_CHARACTERS, 'b']


@pytest.mark.parametrize(
    ('content', 'kind'),
    [
        (gzip.compress(b'image', mtime=0), 'gzip'),
        (bz2.compress(b'image'), 'bzip2'),
        (lzma.compress(b'image'), 'xz'),
        (b'PK\3\4 and so on', 'ZIP or Excel'),
        (b'PAR1 and so on', 'Parquet'),
    ],
)
def test_other_files_are_named(content: bytes, kind: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f'^data.train=x is a {kind} file, not text: unpack it'):
        next(read_text_lines(file, 'data.train=x'))


def test_what_is_no_readable_file_is_refused(file: Path) -> None:
    os.mkfifo(file)
    for path in (file, file.parent, file.parent / 'absent'):
        with pytest.raises(UsageError, match='x is not a regular file'):
            next(read_text_lines(path, 'x'))
    with pytest.raises(UsageError, match=r'x (cannot be read: File name too long|is not a regular file)'):
        next(read_text_lines(file.parent / ('long' * 100), 'x'))


def test_a_disk_that_fails_is_told(file: Path) -> None:
    file.write_text('first')
    with pytest.raises(UsageError, match='x cannot be read: Input/output error'), open_text(file, 'x'):
        raise OSError(5, 'Input/output error')
