"""CC3M, Conceptual Captions (Sharma et al., 2018), in each of the forms in which people have it on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.files.reading import column, existing, first_line, images_in, read_columns, usable
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages, TarImages
from datamodules.rows.subsets import random_rows
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from datamodules.webdataset import caption_of, found_shards, is_pattern, shard_home, shard_index

log = logging.getLogger(__name__)

SUBSETS = {'CC1M': 1_000_000, 'CC100K': 100_000}  # of SafeCLIP's experiments; which rows theirs were is not published
INDEX = 'images.tsv'  # of an image folder whose files are not named by line
_LOOKED_INTO = 3  # folders; if none of so many holds a caption, none does


class CC3M(PairsDataModule):
    """CC3M as published, or as downloaded by img2dataset; what lies at ``root`` tells which.

    - ``<list>.tsv``: caption, tab, address in each line, as published; or a folder with one such file. The images
      lie in a folder ``<list>`` or ``images`` beside it, or in its own folder, or one level deeper in folders of
      digits. They are named by line, counted from 0: ``000000000.jpg``. Where they are not, ``images.tsv`` in their
      folder names them, ``<line><tab><file>`` in each line. Lines without an image are left out.
    - A folder of img2dataset's ``files`` output: ``00000/000000000.jpg``. Captions come from ``00000.parquet`` if
      it is there, else from the ``.txt`` or ``.json`` beside each image.
    - Tar shards, see :class:`datamodules.webdataset.WebDatasetPairs`: a folder of them or a pattern.

    Args:
        root: The training pairs.
        validation: The validation pairs, in any of these forms; attacks take their images from them.
        subset: Rows to draw instead of taking all: a number, ``CC1M`` or ``CC100K``. A smaller subset is part of a
            larger one of the same seed.
        subset_seed: Seed of that draw.
        **kwargs: As for :class:`PairsDataModule`.
    """

    def __init__(
        self,
        root: str,
        validation: str | None = None,
        subset: int | Literal['CC1M', 'CC100K'] | None = None,
        subset_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.validation = root, validation
        self.subset, self.subset_seed = subset, subset_seed

    def load_table(self) -> PairTable:
        """The training pairs in the order of the list, or of folders or shards, or the subset of them."""
        table = read_cc3m(self.root, 'data.root', self.cache_dir)
        if self.subset is None:
            return table
        count = SUBSETS[self.subset] if isinstance(self.subset, str) else self.subset
        return table.take(random_rows(len(table), count, self.subset_seed))

    def load_heldout(self) -> PairTable | None:
        """The validation pairs, if any were named."""
        return None if self.validation is None else read_cc3m(self.validation, 'data.validation', self.cache_dir)


def read_cc3m(place: str, argument: str, cache_dir: Path) -> PairTable:
    """Pairs of CC3M in whatever form they lie there.

    Args:
        place: List, folder, or pattern of tar files.
        argument: What the place was given as, for messages.
        cache_dir: Where an index of tar files goes.

    Raises:
        UsageError: If nothing is there, or nothing that can be read.
    """
    source = f'{argument}={place!r}'
    if is_pattern(place) or any(Path(place).glob('*.tar')):
        shards = found_shards(place, argument)
        index = shard_index(shards, cache_dir, source)
        return PairTable(column(index, 'image'), column(index, 'caption'), opener=TarImages(shard_home(shards)))
    path = existing(place, argument)
    if path.is_file():
        return _from_list(path, source)
    if any(_has_captions(folder) for folder in _numbered_folders(path)[:_LOOKED_INTO]):
        return _from_folders(path, source)
    return _from_list(_only_list(path, source), source)


# --- as published ---------------------------------------------------------------------------------------------------


def _only_list(folder: Path, source: str) -> Path:
    lists = sorted(path for path in folder.glob('*.tsv') if path.name != INDEX)
    if not lists:
        raise UsageError(f'{source} holds no .tsv, no .tar and no folder 00000 with captions: see docs/data.md.')
    if len(lists) > 1:
        raise UsageError(f'{source} holds several lists: name one, such as {str(lists[0])!r}.')
    return lists[0]


def _from_list(tsv: Path, source: str) -> PairTable:
    header = first_line(tsv, '\t', source)
    names = None if set(header) == {'caption', 'url'} else ['caption', 'url']  # img2dataset wants the header
    captions = column(read_columns(tsv, '\t', ['caption'], source, names), 'caption')
    folder = next((f for f in (tsv.with_suffix(''), tsv.parent / 'images') if f.is_dir()), tsv.parent)
    lines, images = _images_by_line(folder)
    _check_lines(lines, len(captions), folder, source)
    pairs = usable(pa.table({'image': images, 'caption': captions.take(pa.array(lines))}), source)
    return PairTable(column(pairs, 'image'), column(pairs, 'caption'), opener=FolderImages(folder))


def _check_lines(lines: np.ndarray, captions: int, folder: Path, source: str) -> None:
    if not len(lines):
        raise UsageError(
            f'{source}: {str(folder)!r} holds no image named by its line, as 000000000.jpg: download them with '
            f'img2dataset, or name them in {INDEX} there, see docs/data.md.'
        )
    if lines[-1] >= captions or lines[0] < 0:
        strange = lines[-1] if lines[-1] >= captions else lines[0]
        raise UsageError(
            f'{source} has {captions:,} lines, but {str(folder)!r} an image for line {strange} '
            f'(counted from 0): give the list that the images were downloaded from.'
        )
    if len(lines) < captions:
        log.warning('%s: %d of %d lines have no image and are left out', source, captions - len(lines), captions)


def _images_by_line(folder: Path) -> tuple[np.ndarray, pa.Array | pa.ChunkedArray]:
    """Lines that have an image, int64 ascending, and its path relative to the folder."""
    if (folder / INDEX).exists():
        line, image = _indexed(folder / INDEX)
    else:
        image = pa.chunked_array([*_paths(folder)], pa.string())
        stem = pc.extract_regex(image, r'(?:^|/)0*(?P<line>\d+)\.\w+$')
        image, stem = image.filter(stem.is_valid()), stem.drop_null()
        line = pc.cast(pc.struct_field(stem, 'line'), pa.int64()).to_numpy()
    line, first = np.unique(line, return_index=True)  # of 1.jpg and 1.png the first
    return line, image.take(pa.array(first)).combine_chunks()


def _indexed(index: Path) -> tuple[np.ndarray, pa.ChunkedArray]:
    rows = read_columns(index, '\t', ['line', 'image'], str(index), ['line', 'image'])
    try:
        return pc.cast(rows['line'], pa.int64()).to_numpy(), rows['image']
    except pa.ArrowInvalid as error:
        raise UsageError(f'{str(index)!r} must hold <line><tab><file> in each line, but: {error}.') from error


def _paths(folder: Path) -> Iterator[pa.Array]:
    """Images of the folder itself and of the folders of digits in it, relative to it."""
    yield pa.array(images_in(folder), pa.string())
    for part in _numbered_folders(folder):
        yield pa.array([f'{part.name}/{name}' for name in images_in(part)], pa.string())


# --- as img2dataset's files -----------------------------------------------------------------------------------------


def _numbered_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def _metadata(folder: Path) -> Path | None:
    """The table that img2dataset writes beside a folder, if captions are in it."""
    parquet = folder.with_name(f'{folder.name}.parquet')
    try:
        return parquet if parquet.exists() and 'caption' in pq.read_schema(parquet).names else None
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f'{str(parquet)!r} is damaged: remove it, and captions are read from the files.') from error


def _has_captions(folder: Path) -> bool:
    """Whether captions lie beside images; img2dataset's .json files are there without any, too, but so is its table."""
    kinds = ('.txt',) if folder.with_name(f'{folder.name}.parquet').exists() else ('.txt', '.json')
    return _metadata(folder) is not None or any(name.endswith(kinds) for name in os.listdir(folder))


def _from_folders(root: Path, source: str) -> PairTable:
    parts = [_captioned(folder) for folder in _numbered_folders(root)]
    pairs = usable(pa.concat_tables(parts), source)
    return PairTable(column(pairs, 'image'), column(pairs, 'caption'), opener=FolderImages(root))


def _captioned(folder: Path) -> pa.Table:
    """Images of one folder and their captions, null where there is none."""
    names = images_in(folder)
    stems = [Path(name).stem for name in names]
    if metadata := _metadata(folder):
        captions = _from_metadata(metadata, stems)
    else:
        captions = pa.array([_beside(folder, stem) for stem in stems], pa.string())
    return pa.table({'image': pa.array([f'{folder.name}/{name}' for name in names], pa.string()), 'caption': captions})


def _from_metadata(parquet: Path, keys: list[str]) -> pa.ChunkedArray:
    """Captions by key, a thousand times faster than a file for each."""
    table = pq.read_table(parquet, columns=['key', 'caption'])
    place = pc.index_in(pa.array(keys, pa.string()), pc.cast(table['key'], pa.string()).combine_chunks())
    return pc.cast(table['caption'], pa.string()).take(place)


def _beside(folder: Path, stem: str) -> str | None:
    text, metadata = (_bytes(folder / f'{stem}{suffix}') for suffix in ('.txt', '.json'))
    return caption_of(text, metadata)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
