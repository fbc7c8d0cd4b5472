"""Read captions, CSV and TSV tables and image folders that other people wrote; none of it is trusted."""

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
_MAX_HEADER_CHARACTERS = 1 << 16  # a file without a line break in so many characters is not a table
# Unicode white space: ASCII's, no-break and ideographic spaces, line and paragraph separators, next line.
_WHITE_SPACE = r'[\s\v\pZ\x{85}]+'


# --- captions -------------------------------------------------------------------------------------------------------


def clean_captions(captions: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    r"""Trims captions and turns every run of white space, line breaks included, into a single space.

    Example:
        >>> clean_captions(pa.array(['  a dog\r\n on the   beach '])).to_pylist()
        ['a dog on the beach']
    """
    return pc.utf8_trim(pc.replace_substring_regex(captions, pattern=_WHITE_SPACE, replacement=' '), ' ')


def drop_empty_captions(pairs: pa.Table, source: str) -> pa.Table:
    """Cleans captions, then drops the pairs without one and logs how many there were.

    Args:
        pairs: Table with a column ``caption`` of strings, null where a pair has none.
        source: What was read, as ``data.<argument>=<value>``.

    Returns:
        The pairs that are left, captions cleaned, each column in one chunk as far as Arrow allows.

    Raises:
        UsageError: If no pair is left.
    """
    index = pairs.schema.get_field_index('caption')
    pairs = pairs.set_column(index, 'caption', clean_captions(pairs['caption']))
    kept = pairs.filter(pc.not_equal(pairs['caption'], ''))
    if not len(kept):
        raise UsageError(f'{source} has no usable pair: none of its {len(pairs):,} rows has an image and a caption.')
    if len(kept) < len(pairs):
        log.warning('%s: %d of %d captions are empty and left out', source, len(pairs) - len(kept), len(pairs))
    return kept.combine_chunks()


def column(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """Returns a column in one chunk, from which rows are taken fast; in several if it is over 2 GiB."""
    return table[name].chunk(0) if table[name].num_chunks == 1 else table[name].combine_chunks()


# --- tables of text -------------------------------------------------------------------------------------------------


def read_first_line(path: Path, separator: str, source: str) -> list[str]:
    """Reads the fields of the first line of a CSV or TSV.

    Raises:
        UsageError: If the file is empty.
    """
    with path.open(newline='', encoding='utf-8-sig', errors='replace') as file:
        line = file.readline(_MAX_HEADER_CHARACTERS)
    fields = next(csv.reader([line.replace('\0', '')], delimiter=separator), [])
    if not fields:
        raise UsageError(f'{source} is empty: name a file with a line for each pair.')
    return fields


def read_columns(
    path: Path, separator: str, columns: Sequence[str], source: str, names: Sequence[str] | None = None
) -> pa.Table:
    """Reads some columns of a UTF-8 CSV or TSV as strings that are never null.

    Args:
        path: The file.
        separator: Character between fields.
        columns: Columns to read.
        source: What is read, as ``data.<argument>=<value>``.
        names: Column names of a file without a header. In such a file a quote is an ordinary character and an
            empty line is a row. ``None``: the first line is the header, and quoted fields may contain line breaks.

    Raises:
        UsageError: If a column is missing, or a line has more or fewer fields than the first one.
    """
    header = read_first_line(path, separator, source) if names is None else names
    if missing := [name for name in columns if name not in header]:
        raise UsageError(f'{source} has no column {missing[0]!r}: its columns are {", ".join(map(repr, header))}.')
    quoted = names is None
    parse = ParseOptions(
        delimiter=separator, quote_char='"' if quoted else False, newlines_in_values=quoted, ignore_empty_lines=quoted
    )
    convert = ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string()))
    try:
        return read_csv(path, CsvOptions(column_names=names), parse, convert)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        fault = _find_malformed_line(path, separator, len(header), quoted)
        raise UsageError(f'{source} cannot be read: {fault or error}') from error


def _find_malformed_line(path: Path, separator: str, columns: int, quoted: bool) -> str | None:
    """Describes the first malformed line; slow, so for error messages only."""
    line = 1
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
            for fields in reader:
                if fields and len(fields) != columns:
                    rule = 'quote fields that contain the separator or a quote' if quoted else 'separate them by tabs'
                    return f'line {line} has {len(fields)} fields instead of {columns}; {rule}.'
                line = reader.line_num + 1
    except UnicodeDecodeError:
        return f'it is not UTF-8 from about line {line} on: convert it, for example with iconv -f latin1 -t utf-8.'
    except csv.Error as error:
        return f'line {line} cannot be split into fields ({error}): a closing quote may be missing.'
    return None


# --- files ----------------------------------------------------------------------------------------------------------


def require_path(path: str | Path, argument: str) -> Path:
    """Returns the path if a file or folder is there.

    Args:
        path: The path.
        argument: Name of the argument that holds it, for the message.

    Raises:
        UsageError: If nothing is there.
    """
    if not Path(path).exists():
        raise UsageError(f'{argument}={str(path)!r} does not exist: name the files of the data set, see docs/data.md.')
    return Path(path)


def list_images(folder: Path) -> list[str]:
    """Lists the names of the image files directly in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES)
