from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from datamodules.files.text_lines import read_text_lines
from datamodules.files.text_tables import Layout, TextTable, read_layout, read_rows
from datamodules.usage_error import UsageError
from tests.helpers.mutations import mutations

HEADER = 'image,caption\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / 'pairs.csv'


def read(file: Path, content: str | bytes, layout: Layout | None = None) -> TextTable:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(file, layout or read_layout(file, 'data.train=x'), ['image', 'caption'], 'data.train=x')


def captions(table: TextTable) -> list[str]:
    return table.rows['caption'].to_pylist()


class TestRows:
    def test_every_field_is_a_string(self, file: Path) -> None:
        table = read(file, 'id,caption, image \r\nNA,1,x\r\n7,"two\r\nlines, ""so""",\r\n')
        assert table.rows.to_pydict() == {'image': ['x', ''], 'caption': ['1', 'two\r\nlines, "so"']}
        assert table.line.tolist() == [2, 3] and table.lines == 4

    @pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
    @pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
    def test_encodings_and_line_ends_do_not_matter(self, encoding: str, end: str, file: Path) -> None:
        table = read(file, end.join(['image,caption', 'é.png,犬', '', 'b.png,"c, d"']).encode(encoding))
        assert table.rows.to_pydict() == {'image': ['é.png', 'b.png'], 'caption': ['犬', 'c, d']}
        assert table.line.tolist() == [2, 4]

    def test_without_a_header_quotes_are_ordinary_and_lines_keep_their_number(self, file: Path) -> None:
        table = read(file, '"open\t1\n\nb" c\t2\nalone\n', Layout('\t', ['caption', 'image'], quoted=False))
        assert captions(table) == ['"open', 'b" c'] and table.line.tolist() == [1, 3] and table.lines == 4

    @pytest.mark.parametrize('first', ['sep=;\r\n', '"sep=;"\n', '\n\nsep=;,,\n'])
    def test_excel_s_line_gives_the_separator(self, first: str, file: Path) -> None:
        assert captions(read(file, first + 'image;caption\n1.png;a, b\n')) == ['a, b']

    @pytest.mark.parametrize('first', ['sep=', 'sep="', 'sep=\0', 'sep=ab', 'sep= '])
    def test_another_line_of_this_kind_is_a_header(self, first: str, file: Path) -> None:
        with pytest.raises(UsageError, match="no column 'image': its columns are 'sep="):
            read(file, f'{first}\nimage,caption\n1.png,a\n')

    def test_a_table_may_have_no_row(self, file: Path) -> None:
        assert len(read(file, HEADER).rows) == 0


FAULTS: Mapping[str, str | bytes] = {
    'do not have 2 fields (quote fields that contain the separator)': 'a.png',
    'are not UTF-8 (convert the file, for example with iconv -f latin1 -t utf-8)': 'a.png,café'.encode('latin1'),
    'contain a NUL character': 'a.png,a\0b',
    'have over 131,072 characters': 'a.png,' + 'x' * 300_000,
    'open a quote that is not closed': 'a.png,"open',
    'repeat the header': 'image, caption ',
}


class TestBadRows:
    @pytest.mark.parametrize('kind', FAULTS)
    def test_are_left_out_counted_and_located(self, kind: str, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        bad = FAULTS[kind] if isinstance(FAULTS[kind], bytes) else str(FAULTS[kind]).encode()
        content = b'\n'.join([HEADER.strip().encode(), b'0.png,"good, one"', bytes(bad), b'1.png,too', bytes(bad)])
        with caplog.at_level(logging.WARNING):
            table = read(file, content)
        assert captions(table) == ['good, one', 'too'] and table.line.tolist() == [2, 4]
        assert caplog.messages == [f'data.train=x: 2 of 4 rows {kind}; first: line 3; left out']
        with pytest.raises(ValueError, match='x has no row that can be read: 1 of 1 rows '):
            read(file, HEADER.encode() + bytes(bad))

    @pytest.mark.parametrize('closed', ['', '"'])
    def test_an_unclosed_quote_swallows_no_row(self, closed: str, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = [f'{row}.png,{chr(34) if row == 24 else ""}photo {row}' for row in range(64)]
        rows[40] += closed  # a second stray quote makes the text between them a field in quotes
        with caplog.at_level(logging.WARNING):
            table = read(file, HEADER + '\n'.join(rows))
        assert table.line.tolist() == [line for line in range(2, 66) if line != 26]
        assert captions(table)[38:40] == ['photo 39', f'photo 40{closed}']
        assert 'rows open a quote that is not closed; first: line 26; left out' in caplog.text

    def test_captions_of_several_lines_are_read_and_counted(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            before = read(file, HEADER + 'a.png,"two, 2\nlines, 2\n"\nb.png,c\n')
            after = read(file, 'caption,image\n"a, ""b""\n\nc",a.png\nd,b.png\n')
        assert captions(before) == ['two, 2\nlines, 2\n', 'c'] and captions(after) == ['a, "b"\n\nc', 'd']
        assert '1 of 2 rows have line breaks in quotes, at most 3 lines, from line 2 on' in caplog.text

    def test_quotes_within_a_field_are_text(self, file: Path) -> None:
        assert captions(read(file, HEADER + 'a.png,a 5" disk\nb.png,"big" dog\n')) == ['a 5" disk', 'big dog']


class TestRefused:
    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ('', 'is empty'),
            (b'\0' * 100, 'is empty'),
            ('image\na\n', "no column 'caption': its columns are 'image'"),
            ('image,caption,caption\na,b,c\n', "2 columns 'caption': rename all but one"),
            ('a' * 1_000_000, "no column 'image': its columns are 'a{40}'.$"),
        ],
    )
    def test_what_is_no_table(self, content: str | bytes, message: str, file: Path) -> None:
        with pytest.raises(UsageError, match=message):
            read(file, content)


def test_mutated_tables_lose_no_row_without_a_count(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = HEADER + ''.join(f'{row}.png,"a ""caption"" of {row} words, or\nmore"\n{row}.jpg,one\n' for row in range(4))
    layout = Layout(',', ['image', 'caption'], start=1)
    for data in mutations(good.encode(), 300):
        caplog.clear()
        try:
            table = read(file, data, layout)
        except UsageError as error:
            assert str(error).startswith('data.train=x')
            continue
        counted = sum(int(line.split(': ')[1].split()[0]) for line in caplog.messages if line.endswith('left out'))
        rest = dict(enumerate(read_text_lines(file, 'x'), 1))
        for line, image, caption in zip(table.line.tolist(), *table.rows.to_pydict().values(), strict=True):
            for within in range(1 + len(re.findall('\r\n|\r|\n', image + '|' + caption))):
                del rest[line + within]
        assert sum(bool(line.strip()) for number, line in rest.items() if number > 1) == counted, data
