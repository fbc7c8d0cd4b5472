"""Read CSV and TSV tables that other people wrote; rows that cannot be read are left out and counted by kind."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa

from datamodules.files.left_out import LeftOut
from datamodules.files.reading import IMAGE_SUFFIXES
from datamodules.files.text_lines import MAX_LINE_CHARACTERS, UNDECODABLE, open_text, read_line, read_text_lines
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

_BATCH_ROWS = 1 << 16
_SHOWN_NAMES, _SHOWN_CHARACTERS = 20, 40  # of columns in a message
_EXCEL_SEPARATOR = re.compile(r'sep=([^\w\s"\0]|\t)[,;\t]*\s*')


class Layout(NamedTuple):
    """How the rows of a table are written.

    Attributes:
        separator: Character between fields.
        names: Name of each column, without white space around it.
        start: Lines before the first row.
        quoted: Whether quoted fields may contain separators and line breaks; if not, a quote is an ordinary character.
    """

    separator: str
    names: list[str]
    start: int = 0
    quoted: bool = True


class TextTable(NamedTuple):
    """Rows of a table.

    Attributes:
        rows: Columns of strings, never null.
        line: Line of the file in which each row begins, counted from 1, int64 (N,).
        lines: Number of lines in the file.
    """

    rows: pa.Table
    line: np.ndarray
    lines: int


# --- layout ---------------------------------------------------------------------------------------------------------


def read_layout(path: Path, source: str, separator: str | None = None) -> Layout:
    """Reads the header of a table, its first line that is not empty.

    Args:
        path: The file.
        source: What is read, as ``data.<argument>=<value>``.
        separator: Character between fields; by default that of Excel's line ``sep=;``, else a tab if the header
            contains one, else a comma.

    Raises:
        UsageError: If the file is empty.
    """
    lines = ((number, line) for number, line in enumerate(read_text_lines(path, source), 1) if line.strip(' \0'))
    start, line = next(lines, (0, ''))
    if (excel := _EXCEL_SEPARATOR.fullmatch(line.strip('"'))) is not None:
        separator = separator or excel[1]
        start, line = next(lines, (0, ''))
    separator = separator or ('\t' if '\t' in line else ',')
    names = [name.strip() for name in next(csv.reader([line.replace('\0', '')], delimiter=separator), [])]
    if not names:
        raise UsageError(f'{source} is empty: name a file with a line for each pair.')
    return Layout(separator, names, start)


def describe_names(names: Sequence[str]) -> str:
    """Lists the names of columns for a message, as far as there is room."""
    return ', '.join(repr(name[:_SHOWN_CHARACTERS]) for name in names[:_SHOWN_NAMES])


# --- rows -----------------------------------------------------------------------------------------------------------


def read_columns(path: Path, layout: Layout, columns: Sequence[str], source: str) -> pa.Table:
    """Reads some columns of a table; arguments and errors are those of :func:`read_rows`."""
    return read_rows(path, layout, columns, source).rows


def read_rows(path: Path, layout: Layout, columns: Sequence[str], source: str) -> TextTable:
    """Reads some columns of a table as strings.

    Left out and counted in the log are rows with too few or too many fields, with bytes that are not text, with a quote
    that is not closed, longer than 131,072 characters, and copies of the header. Empty lines are no rows if the
    table has quotes, and else rows with too few fields.

    Args:
        path: The file.
        layout: How it is written, from :func:`read_layout` if it has a header.
        columns: Columns to read; if one names image files, it is the first.
        source: What is read, as ``data.<argument>=<value>``.

    Raises:
        UsageError: If a column is missing or there twice, or no row can be read.
    """
    for name in columns:
        _check_column(name, layout.names, source)
    types = [pa.int64(), *[pa.string()] * len(columns)]
    with open_text(path, source) as file:
        rows = _Rows(file, layout, [layout.names.index(name) for name in columns])
        batches = [_as_batch(batch, types) for batch in iter(lambda: list(islice(rows, _BATCH_ROWS)), [])]
    table = pa.Table.from_batches(batches, _as_batch([], types).schema)
    total = len(table) + len(rows.left_out)
    if total and not len(table):
        raise UsageError(f'{source} has no row that can be read: {rows.left_out.describe(total)}.')
    rows.left_out.log(source, total)
    if rows.broken:
        log.warning(
            '%s: %d of %d rows have line breaks in quotes, at most %d lines, from line %d on',
            source, rows.broken, total, rows.longest, rows.longest_from,
        )  # fmt: skip
    line, *strings = table.columns
    return TextTable(pa.table(strings, list(columns)), line.to_numpy(), rows.lines.number)


def _check_column(name: str, names: list[str], source: str) -> None:
    if name not in names or UNDECODABLE in name:
        raise UsageError(f'{source} has no column {name!r}: its columns are {describe_names(names)}.')
    if names.count(name) > 1:
        raise UsageError(f'{source} has {names.count(name)} columns {name!r}: rename all but one of them.')


def _as_batch(rows: Sequence[tuple[int | str, ...]], types: Sequence[pa.DataType]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, [str(number) for number in range(len(types))])


class _Lines:
    """Lines of a file, of which those of the current row can be read again."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.number = 0  # lines before the current row
        self.of_row: list[str] = []
        self.again: list[str] = []  # the next one last

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.again.pop() if self.again else read_line(self.file)
        if not line:
            raise StopIteration
        self.of_row.append(line)
        return line

    def begin_row(self) -> None:
        self.number += len(self.of_row)
        self.of_row = []

    def return_to_second(self) -> None:
        """Lets all lines of the row but the first be read again."""
        self.again += self.of_row[:0:-1]
        del self.of_row[1:]


class _Rows:
    """Iterates over the rows that can be read, as line and fields of some columns; counts the others."""

    def __init__(self, file: TextIO, layout: Layout, keys: Sequence[int]) -> None:
        self.lines, self.layout, self.keys = _Lines(file), layout, keys
        self.left_out = LeftOut('rows')
        self.broken = self.longest = self.longest_from = 0  # rows of several lines, lines of the longest, its first one
        for _ in islice(self.lines, layout.start):
            pass
        self.reader = self._reader(self.lines, strict=True)

    def __iter__(self) -> Iterator[tuple[int | str, ...]]:
        return self

    def __next__(self) -> tuple[int | str, ...]:
        while True:
            self.lines.begin_row()
            fields = self._parse()
            if fault := self._find_fault(fields):
                self.left_out.add(fault, f'line {self.lines.number + 1}')
            elif fields and len(fields) == len(self.layout.names):  # not an empty line
                self._note_lines()
                return self.lines.number + 1, *[fields[key] for key in self.keys]

    def _parse(self) -> list[str] | None:
        """Returns the fields of the next row, ``None`` if it opens a quote that is not closed before the next one."""
        try:
            fields: list[str] = next(self.reader)
            if len(self.lines.of_row) == 1 or not (self._swallows_rows(fields) or self._find_fault(fields)):
                return fields
        except csv.Error:
            self.reader = self._reader(self.lines, strict=True)
        self.lines.return_to_second()
        return self._parse_alone(self.lines.of_row[0])

    def _parse_alone(self, line: str) -> list[str] | None:
        reader = self._reader([line, ''])  # goes on to the second only within quotes
        try:
            fields: list[str] = next(reader)
        except csv.Error:
            return None
        return fields if reader.line_num == 1 else None

    def _reader(self, lines: Iterable[str], strict: bool = False) -> Any:
        return csv.reader(
            lines,
            delimiter=self.layout.separator,
            quoting=csv.QUOTE_MINIMAL if self.layout.quoted else csv.QUOTE_NONE,
            strict=strict,
        )

    def _swallows_rows(self, fields: Sequence[str]) -> bool:
        """Tells whether a quote runs on to that of a later row: two of its lines then look like rows of their own."""
        columns, image = len(self.layout.names), self.keys[0]
        lines = [line.replace('"', '').split(self.layout.separator) for line in self.lines.of_row]
        return len(fields) != columns or sum(len(line) == columns and names_image(line[image]) for line in lines) > 1

    def _note_lines(self) -> None:
        lines = len(self.lines.of_row)
        self.broken += lines > 1
        if lines > max(self.longest, 1):
            self.longest, self.longest_from = lines, self.lines.number + 1

    def _find_fault(self, fields: Sequence[str] | None) -> str | None:
        """Says what is wrong with the current row, if anything is."""
        text, columns = ''.join(self.lines.of_row), len(self.layout.names)
        if len(text) >= MAX_LINE_CHARACTERS:
            return f'have over {MAX_LINE_CHARACTERS:,} characters'
        if UNDECODABLE in text:
            return 'are not UTF-8 (convert the file, for example with iconv -f latin1 -t utf-8)'
        if '\0' in text:
            return 'contain a NUL character'
        if fields is None:
            return 'open a quote that is not closed'
        if len(fields) != columns and (text.strip() or not self.layout.quoted):
            rule = 'quote fields that contain the separator' if self.layout.quoted else 'separate them by tabs'
            return f'do not have {columns} fields ({rule})'
        if fields[:1] == self.layout.names[:1] and list(map(str.strip, fields)) == self.layout.names:
            return 'repeat the header'
        return None


def names_image(text: str) -> bool:
    """Tells whether a text ends like the name of an image file."""
    return os.path.splitext(text.strip())[1].lower() in IMAGE_SUFFIXES
