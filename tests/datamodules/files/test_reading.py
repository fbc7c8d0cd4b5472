from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.files.reading import (
    clean_captions,
    column,
    drop_empty_captions,
    list_images,
    read_columns,
    read_first_line,
    require_path,
)


class TestCaptions:
    @pytest.mark.parametrize(
        ('caption', 'clean'),
        [
            ('  a dog ', 'a dog'),
            ('a\r\ndog\n', 'a dog'),
            ('a\t \vdog', 'a dog'),
            ('\u00a0a\u2003dog\u3000\u2028\u0085', 'a dog'),
            (' \n ', ''),
            ('naïve “caf\u00e9” 犬', 'naïve “café” 犬'),
        ],
    )
    def test_white_space_becomes_one_space(self, caption: str, clean: str) -> None:
        assert clean_captions(pa.array([caption])).to_pylist() == [clean]

    def test_empty_captions_are_dropped_and_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        pairs = pa.table({'caption': [' a', '', None, '\n', 'b'], 'image': ['0', '1', '2', '3', '4']})
        with caplog.at_level(logging.WARNING):
            kept = drop_empty_captions(pairs, 'data.root')
        assert kept.to_pydict() == {'caption': ['a', 'b'], 'image': ['0', '4']}
        assert '3 of 5 captions are empty' in caplog.text

    def test_a_table_without_captions_is_rejected(self) -> None:
        with pytest.raises(ValueError, match=r'data\.root has no usable pair'):
            drop_empty_captions(pa.table({'caption': [' ']}), 'data.root')

    def test_a_column_is_one_chunk(self) -> None:
        pairs = pa.table({'caption': pa.chunked_array([['a'], ['b']])})
        assert column(pairs, 'caption').to_pylist() == ['a', 'b']
        assert isinstance(column(drop_empty_captions(pairs, ''), 'caption'), pa.Array)


class TestReadColumns:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / 'pairs.csv'

    def test_reads_every_field_as_a_string(self, file: Path) -> None:
        file.write_bytes(b'\xef\xbb\xbfa,b,c\r\nNA,1,x\r\n"two\nlines, ""so""",,y\r\n')
        assert read_columns(file, ',', ['a', 'b'], '').to_pydict() == {'a': ['NA', 'two\nlines, "so"'], 'b': ['1', '']}

    def test_without_a_header_quotes_are_ordinary_and_empty_lines_are_rows(self, file: Path) -> None:
        file.write_text('"open\t1\n\nb" c\t2\n')
        table = read_columns(file, '\t', ['a'], '', ['a', 'b'])
        assert table.to_pydict() == {'a': ['"open', '', 'b" c']}

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ('a,b\n1,2\n"x\ny",3\n4,5,6\n', 'line 5 has 3 fields instead of 2'),
            ('a,b\n1\n', 'line 2 has 1 fields instead of 2'),
            ('a,b\n1,2\n"open,3\n4,5\n', 'line 3 has 1 fields instead of 2'),
        ],
    )
    def test_names_the_malformed_line(self, content: str, message: str, file: Path) -> None:
        file.write_text(content)
        with pytest.raises(ValueError, match=rf'data\.train=x cannot be read: {message}'):
            read_columns(file, ',', ['a', 'b'], 'data.train=x')

    def test_names_the_line_of_an_unclosed_quote(self, file: Path) -> None:
        file.write_text('a,b\n1,2\n"open,3\n' + 20_000 * 'more,text\n')
        with pytest.raises(ValueError, match='line 3'):
            read_columns(file, ',', ['a'], 'data.train=x')

    def test_rejects_other_encodings(self, file: Path) -> None:
        file.write_bytes('a,b\ncafé,2\n'.encode('latin1'))
        with pytest.raises(ValueError, match='not UTF-8'):
            read_columns(file, ',', ['a'], 'data.train=x')

    def test_lists_the_existing_columns(self, file: Path) -> None:
        file.write_text('a,b\n1,2\n')
        with pytest.raises(ValueError, match=r"data\.train=x has no column 'c': its columns are 'a', 'b'"):
            read_columns(file, ',', ['a', 'c'], 'data.train=x')

    def test_rejects_an_empty_file(self, file: Path) -> None:
        file.touch()
        with pytest.raises(ValueError, match=r'data\.train=x is empty'):
            read_first_line(file, ',', 'data.train=x')
        with pytest.raises(ValueError, match=r'data\.train=x'):
            read_columns(file, ',', ['a'], 'data.train=x', ['a', 'b'])


class TestFiles:
    def test_a_missing_path_names_the_argument(self, tmp_path: Path) -> None:
        assert require_path(str(tmp_path), 'data.root') == tmp_path
        with pytest.raises(ValueError, match=r"data\.root='.*absent' does not exist"):
            require_path(tmp_path / 'absent', 'data.root')

    def test_lists_only_images_sorted(self, tmp_path: Path) -> None:
        for name in ('b.JPEG', 'a.png', 'c.txt', '10.jpg', '9.jpg'):
            (tmp_path / name).touch()
        assert list_images(tmp_path) == ['10.jpg', '9.jpg', 'a.png', 'b.JPEG']
