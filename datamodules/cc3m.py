"""CC3M, Conceptual Captions (Sharma et al., 2018), in every form in which people have it on disk."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.files.byte_counts import parse_bytes
from datamodules.files.left_behind import is_left_behind
from datamodules.files.opening import RefusedFile, open_file
from datamodules.files.reading import (
    MAX_CAPTION_CHARACTERS,
    column,
    drop_empty_captions,
    list_images,
    require_path,
)
from datamodules.files.remote_addresses import check_addresses
from datamodules.files.remote_shards import CopyRules, check_copies, open_shards
from datamodules.files.sample_texts import choose_caption, parse_metadata
from datamodules.files.shard_index import index_shards
from datamodules.files.shards import holds_shards, is_pattern
from datamodules.files.text_files import TextFiles
from datamodules.files.text_lines import read_text_lines
from datamodules.files.text_tables import Layout, read_columns, read_rows
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.subsets import random_rows
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from datamodules.webdataset import shard_table

log = logging.getLogger(__name__)

SUBSETS = {'CC1M': 1_000_000, 'CC100K': 100_000}  # SafeCLIP's experiments; its choice of rows is not published
LINE_INDEX = 'images.tsv'  # names the images of each line where their file names do not
_PROBED_FOLDERS = 3  # if none of the first has a caption, no folder has
_PROBED_LINES = 100  # which tell captions from addresses
_MAX_METADATA_BYTES = 1 << 30  # of a table of img2dataset, compressed or not; 10,000 rows take two megabytes
_MAX_METADATA_ROWS = 1 << 22
_MAX_KEY = 100  # characters
_CAPTION_COLUMNS = ('caption', 'text', 'title')  # in headers, in small letters
_ADDRESS = re.compile(r'\s*"?(?:(?:[a-z][a-z0-9+.-]*:)?//|www\.)\S', re.IGNORECASE)  # of any scheme, or without one
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class CC3M(PairsDataModule):
    """CC3M (Conceptual Captions): the published ``<list>.tsv`` with images, or img2dataset's folders or tar shards.

    ``root`` may be any of these:

    - ``<list>.tsv`` as published, ``<caption><tab><address>`` in each line, or a folder with one such file. A header
      is recognized, and so are addresses before captions, as in CC12M. The images lie in a folder ``<list>`` or
      ``images`` beside the list, or in the folder of the list itself, or one level deeper in folders of digits. Each
      is named after its line, counted from 0: ``000000000.jpg``. For other names, write ``images.tsv`` into the
      folder of images, with ``<line><tab><file>`` in each line. Lines without an image are left out.
    - The output folder of img2dataset with ``--output_format files``: ``00000/000000000.jpg`` and so on. Captions
      come from ``00000.parquet`` if it exists, else from the ``.txt`` or ``.json`` file beside each image.
    - Tar shards, as a folder, a pattern or an address; :class:`datamodules.webdataset.WebDatasetPairs` describes them.

    Args:
        root: Training pairs: the published list ``<list>.tsv`` with its images named by line (``000000000.jpg``) in
            ``<list>/`` or ``images/`` beside it; a folder with one such list; an output folder of img2dataset; or a
            folder, pattern or address of tar shards, such as ``cc3m-{00000..00331}.tar``.
        validation: Validation pairs, in any form that ``root`` may have. Attacks take their images from them. By
            default nothing is held out.
        subset: Number of pairs to draw at random, or ``CC1M`` or ``CC100K``; by default all are used. With one
            seed, a smaller subset is part of every larger one.
        subset_seed: Seed that draws the subset.
        cache_limit: Most bytes that copies of remote shards may take in ``cache_dir``, such as ``200GB``; see
            :class:`datamodules.webdataset.WebDatasetPairs`.
        **kwargs: Arguments of :class:`PairsDataModule`.
    """

    def __init__(
        self,
        root: str,
        validation: str | None = None,
        subset: int | Literal['CC1M', 'CC100K'] | None = None,
        subset_seed: int = 0,
        cache_limit: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_addresses(root, 'data.root')
        check_addresses(validation, 'data.validation')
        self.root, self.validation = root, validation
        self.subset, self.subset_seed = subset, subset_seed
        self.cache_limit = parse_bytes(cache_limit, 'data.cache_limit')

    def prepare_data(self) -> None:
        """Asks servers whether their shards have changed, then works like that of :class:`PairsDataModule`."""
        check_copies(self.root, 'data.root', self.cache_dir)
        check_copies(self.validation, 'data.validation', self.cache_dir)
        super().prepare_data()

    def load_table(self) -> PairTable:
        """Reads the training pairs, or a subset of them, in the order of the list, folders or shards."""
        rules = CopyRules(self.cache_dir, self.cache_limit, at_random=self.cache == 'none')
        table = read_cc3m(self.root, 'data.root', rules, self.follow_outside)
        if self.subset is None:
            return table
        count = SUBSETS[self.subset] if isinstance(self.subset, str) else self.subset
        return table.take(random_rows(len(table), count, self.subset_seed))

    def load_heldout(self) -> PairTable | None:
        """Reads the validation pairs, if ``validation`` names any."""
        if self.validation is None:
            return None
        rules = CopyRules(self.cache_dir, self.cache_limit)
        return read_cc3m(self.validation, 'data.validation', rules, self.follow_outside)


def read_cc3m(location: str, argument: str, rules: CopyRules, follow_outside: bool = False) -> PairTable:
    """Reads pairs of CC3M in whatever form they are stored.

    Args:
        location: A list, a folder, or a pattern or an address of tar files.
        argument: Name of the argument that holds the location, for messages.
        rules: Folder for the index of tar files and for copies of remote ones.
        follow_outside: Whether to read caption files to which links lead out of the location.

    Raises:
        UsageError: If the location does not exist or contains no pairs in a known form.
    """
    source = f'{argument}={location!r}'
    if is_pattern(location) or holds_shards(location):
        shards = open_shards(location, argument, rules)
        index = index_shards(shards, rules.cache_dir, source)
        return shard_table(index, shards)
    path = require_path(location, argument)
    if not path.is_dir():
        return _read_list(path, source)
    inside = None if follow_outside else os.path.realpath(path)
    if any(_has_captions(folder, inside) for folder in _list_numbered_folders(path)[:_PROBED_FOLDERS]):
        return _read_folders(path, source, inside)
    return _read_list(_find_list(path, source), source)


# --- the published list ---------------------------------------------------------------------------------------------


def _find_list(folder: Path, source: str) -> Path:
    lists = sorted(path for path in folder.glob('*.tsv') if path.name != LINE_INDEX and not is_left_behind(path.name))
    if not lists:
        raise UsageError(f'{source} contains no .tsv, no .tar and no folder 00000 with captions: see docs/data.md.')
    if len(lists) > 1:
        raise UsageError(f'{source} contains several lists: name one, such as {str(lists[0])!r}.')
    return lists[0]


def _read_list(tsv: Path, source: str) -> PairTable:
    captions = _read_captions(tsv, source)
    folder = next((f for f in (tsv.with_suffix(''), tsv.parent / 'images') if f.is_dir()), tsv.parent)
    lines, images = _list_images_by_line(folder)
    _check_lines(lines, len(captions), folder, source)
    pairs = pa.table({'image': images, 'caption': captions.take(pa.array(lines))}).drop_null()  # counted when read
    pairs = drop_empty_captions(pairs, source)
    images = FolderImages(folder, tsv.parent)
    return PairTable(column(pairs, 'image'), column(pairs, 'caption'), opener=images)


def _read_captions(tsv: Path, source: str) -> pa.Array:
    """Reads the caption of each line after the header, null where a line cannot be read."""
    layout = find_columns(list(islice(read_text_lines(tsv, source), _PROBED_LINES)), source)
    table = read_rows(tsv, layout, [next(name for name in layout.names if name in _CAPTION_COLUMNS)], source)
    row_of_line = np.full(table.lines - layout.start, -1)
    row_of_line[table.line - layout.start - 1] = np.arange(len(table.line))
    return table.rows[0].combine_chunks().take(pa.array(row_of_line, mask=row_of_line < 0))


def find_columns(lines: Sequence[str], source: str) -> Layout:
    r"""Tells by the first lines of a list whether they are a header and which column holds captions, which addresses.

    The published list has captions first and no header, that of CC12M addresses first; img2dataset needs a header.

    Raises:
        UsageError: If there is no line, or no column of captions.

    Example:
        >>> find_columns(['http://a.org/0.jpg\ta dog', 'http://a.org/1.jpg\ta cat'], 'data.root=list.tsv').names
        ['url', 'caption']
    """
    if not lines:
        raise UsageError(f'{source} is empty: name a file with a line for each pair.')
    fields = [[field.strip() for field in line.split('\t')] for line in lines]
    quoted = _are_quoted(fields)
    first = [name.strip('" ').lower() for name in fields[0]]
    if set(first) & set(_CAPTION_COLUMNS) and not any(map(_ADDRESS.match, first)):
        return Layout('\t', first, start=1, quoted=quoted)
    addresses = [[bool(_ADDRESS.match(field)) for field in line] for line in fields]
    in_column = [2 * sum(line[i : i + 1] == [True] for line in addresses) > len(lines) for i in range(2)]
    if all(in_column):
        raise UsageError(f'{source} has addresses in both columns: name a list with a caption in each line.')
    names = ['url', 'caption'] if in_column[0] else ['caption', 'url']
    has_header = any(in_column) and not any(addresses[0]) and len(addresses[0]) == len(names)
    return Layout('\t', names, start=int(has_header), quoted=quoted)


def _are_quoted(lines: Sequence[Sequence[str]]) -> bool:
    """Tells whether quotes enclose fields, as CSV writers put them; in the published list they belong to captions."""
    with_quotes = [field for line in lines for field in line if '"' in field]
    if not all(map(_QUOTED.fullmatch, with_quotes)):
        return False
    in_column = [2 * sum('"' in ''.join(line[i : i + 1]) for line in lines) > len(lines) for i in range(2)]
    return any(in_column) or any('""' in field[1:-1] for field in with_quotes)


def _check_lines(lines: np.ndarray, captions: int, folder: Path, source: str) -> None:
    if not len(lines):
        raise UsageError(
            f'{source}: {str(folder)!r} contains no image named after its line, such as 000000000.jpg: download them '
            f'with img2dataset, or list them in {LINE_INDEX} there, see docs/data.md.'
        )
    if lines[-1] >= captions or lines[0] < 0:
        unknown = lines[-1] if lines[-1] >= captions else lines[0]
        raise UsageError(
            f'{source} has {captions:,} lines, but {str(folder)!r} has an image for line {unknown} '
            f'(counted from 0): give the list that the images were downloaded from.'
        )
    if len(lines) < captions:
        log.warning('%s: %d of %d lines have no image and are left out', source, captions - len(lines), captions)


def _list_images_by_line(folder: Path) -> tuple[np.ndarray, pa.Array | pa.ChunkedArray]:
    """Lists the lines that have an image, int64 ascending, and the path of each image relative to the folder."""
    if os.path.exists(folder / LINE_INDEX):
        line, image = _read_line_index(folder / LINE_INDEX)
    else:
        image = pa.chunked_array([*_walk_images(folder)], pa.string())
        stem = pc.extract_regex(image, r'(?:^|/)0*(?P<line>\d{1,18})\.\w+$')  # as many digits as 64 bits hold
        image, stem = image.filter(stem.is_valid()), stem.drop_null()
        line = pc.cast(pc.struct_field(stem, 'line'), pa.int64()).to_numpy()
    lines = len(line)
    line, first = np.unique(line, return_index=True)  # the first of 1.jpg and 1.png
    if len(line) < lines:
        log.warning('%s: %d of %d images have the line of another; left out', folder, lines - len(line), lines)
    return line, image.take(pa.array(first)).combine_chunks()


def _read_line_index(index: Path) -> tuple[np.ndarray, pa.ChunkedArray]:
    columns = ['line', 'image']
    rows = read_columns(index, Layout('\t', columns, quoted=False), columns, repr(str(index)))
    try:
        return pc.cast(rows['line'], pa.int64()).to_numpy(), rows['image']
    except pa.ArrowInvalid as error:
        raise UsageError(f'{str(index)!r} must have <line><tab><file> in each line: {error}.') from error


def _walk_images(folder: Path) -> Iterator[pa.Array]:
    """Yields the images in a folder and in its folders of digits, relative to it."""
    yield pa.array(list_images(folder), pa.string())
    for part in _list_numbered_folders(folder):
        yield pa.array([f'{part.name}/{name}' for name in list_images(part)], pa.string())


# --- the files of img2dataset -----------------------------------------------------------------------------------------


def _list_numbered_folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    except OSError as error:
        raise UsageError(f'{str(folder)!r} cannot be listed: {error.strerror}.') from error


def _find_metadata(folder: Path, inside: str | None) -> Path | None:
    """Finds the table that img2dataset writes beside a folder, if it contains captions.

    Args:
        folder: A folder of images.
        inside: Real path of the folder that the table must be in after links are followed; ``None`` for any.

    Raises:
        UsageError: If the table is not a regular file, is elsewhere, or is damaged.
    """
    parquet = folder.with_name(f'{folder.name}.parquet')
    if not parquet.exists():
        return None
    try:
        with open_file(parquet, _MAX_METADATA_BYTES, inside) as file:
            return parquet if 'caption' in pq.read_schema(file).names else None
    except RefusedFile as error:
        raise UsageError(f'{error}: remove it, so that captions are read from the files.') from error
    except (pa.ArrowException, OSError, ValueError) as error:  # such as a name that is not UTF-8
        raise UsageError(
            f'{str(parquet)!r} is damaged: remove it, so that captions are read from the files.'
        ) from error


def _has_captions(folder: Path, inside: str | None) -> bool:
    """Tells whether a folder has captions; beside img2dataset's table, its .json files may be without any."""
    suffixes = ('.txt',) if folder.with_name(f'{folder.name}.parquet').exists() else ('.txt', '.json')
    return _find_metadata(folder, inside) is not None or any(name.endswith(suffixes) for name in os.listdir(folder))


def _read_folders(root: Path, source: str, inside: str | None) -> PairTable:
    texts = TextFiles(inside)
    parts = [_read_folder(folder, texts) for folder in _list_numbered_folders(root)]
    texts.warn(source)
    pairs = drop_empty_captions(pa.concat_tables(parts), source)
    return PairTable(column(pairs, 'image'), column(pairs, 'caption'), opener=FolderImages(root))


def _read_folder(folder: Path, texts: TextFiles) -> pa.Table:
    """Reads the images of one folder and their captions, null where an image has none."""
    names = list_images(folder)
    stems = [Path(name).stem for name in names]
    if metadata := _find_metadata(folder, texts.folder):
        captions = _read_metadata(metadata, stems, texts.folder)
    else:
        captions = pa.array([_read_caption(folder, stem, texts) for stem in stems], pa.string())
    return pa.table({'image': pa.array([f'{folder.name}/{name}' for name in names], pa.string()), 'caption': captions})


def _read_metadata(parquet: Path, keys: Sequence[str], inside: str | None) -> pa.Array:
    """Reads captions by key, a thousand times as fast as one file for each."""
    try:
        with open_file(parquet, _MAX_METADATA_BYTES, inside) as file:
            table = _read_table(file, ['key', 'caption'])
        table.validate(full=True)
        key = pc.utf8_ltrim(_decode_column(table['key'], _MAX_KEY), '0')
        numbers = pc.utf8_ltrim(pa.array(keys, pa.string()), '0')  # keys that became numbers have lost their zeros
        return _decode_column(table['caption'].take(pc.index_in(numbers, key)), MAX_CAPTION_CHARACTERS)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UsageError(
            f'{str(parquet)!r} has no usable columns key and caption: remove it, so that captions are read from the '
            f'files.'
        ) from error


def _read_table(file: BinaryIO, columns: list[str]) -> pa.Table:
    """Reads columns with equal strings stored once, as a small file may repeat a long one a million times.

    Raises:
        ValueError: If the columns are too large.
    """
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    parts = [group.column(number) for group in groups for number in range(group.num_columns)]
    size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema in columns)
    if size > _MAX_METADATA_BYTES or metadata.num_rows > _MAX_METADATA_ROWS:
        raise ValueError(f'{metadata.num_rows:,} rows with {size:,} bytes')
    return pq.read_table(file, columns=columns, read_dictionary=columns).unify_dictionaries().combine_chunks()


def _decode_column(values: pa.ChunkedArray, max_characters: int) -> pa.Array:
    """Turns values into strings of no more than some characters."""

    def cut(part: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(part.type):
            return cut(part.dictionary).take(part.indices)
        return pc.utf8_slice_codeunits(pc.cast(part, pa.string()), 0, max_characters)

    return pa.chunked_array(map(cut, values.chunks), pa.string()).combine_chunks()


def _read_caption(folder: Path, stem: str, texts: TextFiles) -> str | None:
    text, metadata = (texts.read(folder / f'{stem}{suffix}') for suffix in ('.txt', '.json'))
    return choose_caption(text, parse_metadata(metadata))
