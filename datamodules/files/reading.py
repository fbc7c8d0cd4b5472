"""Reading what others wrote: captions, tables of text, folders of pictures. Nothing of it is trusted."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import ConvertOptions, ParseOptions, read_csv
from pyarrow.csv import ReadOptions as CsvOptions

from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({'.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'})
_LONGEST_HEADER = 1 << 16  # characters; what has no line break so far is no table
# White space of Unicode: that of ASCII, no-break and ideographic spaces, line and paragraph separators, next line.
_WHITE_SPACE = r'[\s\v\pZ\x{85}]+'


# --- captions -------------------------------------------------------------------------------------------------------


def cleaned(captions: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Captions without white space at the ends, and with one space for any run of it, line breaks included."""
    return pc.utf8_trim(pc.replace_substring_regex(captions, pattern=_WHITE_SPACE, replacement=' '), ' ')


def usable(pairs: pa.Table, source: str) -> pa.Table:
    """Pairs whose cleaned caption is not empty; the others are counted in the log.

    Args:
        pairs: Table with a column ``caption`` of strings, null where there is none.
        source: What was read, as ``data.<argument>=<value>``.

    Returns:
        The same columns, each in one piece as far as Arrow allows, captions cleaned.

    Raises:
        UsageError: If none is left.
    """
    place = pairs.schema.get_field_index('caption')
    pairs = pairs.set_column(place, 'caption', cleaned(pairs['caption']))
    kept = pairs.filter(pc.not_equal(pairs['caption'], ''))
    if not len(kept):
        raise UsageError(f'{source} has no usable pair: none of its {len(pairs):,} rows has an image and a caption.')
    if len(kept) < len(pairs):
        log.warning('%s: %d of %d captions are empty and left out', source, len(pairs) - len(kept), len(pairs))
    return kept.combine_chunks()


def column(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """A column in one piece, which is what makes taking rows from it fast; in several if it is over 2 GiB."""
    return table[name].chunk(0) if table[name].num_chunks == 1 else table[name].combine_chunks()


# --- tables of text -------------------------------------------------------------------------------------------------


def first_line(path: Path, separator: str, source: str) -> list[str]:
    """Fields of the first line of a CSV or TSV.

    Raises:
        UsageError: If there is none.
    """
    with path.open(newline='', encoding='utf-8-sig', errors='replace') as file:
        line = file.readline(_LONGEST_HEADER)
    fields = next(csv.reader([line.replace('\0', '')], delimiter=separator), [])
    if not fields:
        raise UsageError(f'{source} is empty: name a file with a line for each pair.')
    return fields


def read_columns(
    path: Path, separator: str, columns: Sequence[str], source: str, names: Sequence[str] | None = None
) -> pa.Table:
    """Some columns of a CSV or TSV in UTF-8, as strings that are never null.

    Args:
        path: The file.
        separator: Character between fields.
        columns: Columns to read.
        source: What is read, as ``data.<argument>=<value>``.
        names: Names of the columns of a file without a header; in such a file a quote is a character like any
            other, and an empty line is a row. ``None``: the first line says, quoted fields may hold line breaks.

    Raises:
        UsageError: If there is no such column, or a line has more or fewer fields than the first one.
    """
    there = first_line(path, separator, source) if names is None else names
    if absent := [name for name in columns if name not in there]:
        raise UsageError(f'{source} has no column {absent[0]!r}: there are {", ".join(map(repr, there))}.')
    quoted = names is None
    parse = ParseOptions(
        delimiter=separator, quote_char='"' if quoted else False, newlines_in_values=quoted, ignore_empty_lines=quoted
    )
    convert = ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string()))
    try:
        return read_csv(path, CsvOptions(column_names=names), parse, convert)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise UsageError(f'{source} cannot be read: {_fault(path, separator, len(there), quoted) or error}') from error


def _fault(path: Path, separator: str, fields: int, quoted: bool) -> str | None:
    """Says which line of a malformed file is the first that is wrong; slow, for error messages only."""
    line = 1
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
            for found in reader:
                if found and len(found) != fields:
                    rule = 'one that holds the separator or a quote must be quoted' if quoted else 'tabs separate them'
                    return f'line {line} has {len(found)} fields instead of {fields}; {rule}.'
                line = reader.line_num + 1
    except UnicodeDecodeError:
        return f'it is not UTF-8 from about line {line} on: convert it, as with iconv -f latin1 -t utf-8.'
    except csv.Error as error:
        return f'line {line} cannot be told apart into fields ({error}): a quote may not end.'
    return None


# --- files ----------------------------------------------------------------------------------------------------------


def existing(path: str | Path, argument: str) -> Path:
    """The path, if something is there.

    Raises:
        UsageError: If not, naming the argument.
    """
    if not Path(path).exists():
        raise UsageError(f'{argument}={str(path)!r} does not exist: name the files of the data set, see docs/data.md.')
    return Path(path)


def images_in(folder: Path) -> list[str]:
    """Names of the image files of one folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES)
