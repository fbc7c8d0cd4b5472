"""Writes the pairs that are left after ``data.filters``, as lists or as copies of their files, for any trainer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.files.atomic import fill_atomically
from datamodules.files.writers import Sample, open_csv, require_empty, write_samples
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages, UnreadableImage
from datamodules.pictures.original_files import original_file
from datamodules.rows.filters import UIDS
from datamodules.rows.partition import DROPPED
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

Form = Literal['npy', 'parquet', 'csv', 'webdataset']
RECORD = 'left_out.csv'
UNREADABLE = 'unreadable'
_CAPTIONS_AT_ONCE = 8192
# What pandas, with which open_clip reads tables, takes for a missing value, quoted or not.
_MISSING = (
    '#N/A', '#N/A N/A', '#NA', '-1.#IND', '-1.#QNAN', '-NaN', '-nan', '1.#IND', '1.#QNAN', '<NA>', 'N/A', 'NA', 'NULL',
    'NaN', 'None', 'n/a', 'nan', 'null',
)  # fmt: skip

Mask = NDArray[np.bool_]


def write_cleaned(data: PairsDataModule, folder: Path, form: Form = 'parquet') -> int:
    """Writes what is left of the pairs, and why each of the others is not.

    - ``npy``: ``kept.npy``, a subset file of DataComp: sorted uids, each a pair of 64-bit integers.
    - ``parquet``: ``kept.parquet`` with ``key``, the name of the picture, ``caption`` and, if any sample has one,
      ``uid``.
    - ``csv``: ``kept.tsv`` with ``filepath``, an absolute path, and ``title``, separated by tabs as open_clip expects.
    - ``webdataset``: ``train/00000.tar`` and so on with the pictures' files as they are, ``<row>.txt`` and, for samples
      with a uid, ``<row>.json``.

    ``left_out.csv`` names the row, the key, the caption and the filters that dropped it, or ``unreadable``. The folder
    has a temporary name until it is complete.

    Args:
        data: The pairs, after ``setup``, without attacks.
        folder: Folder to write; must be missing or empty.
        form: What to write.

    Returns:
        Number of pairs that are left.

    Raises:
        UsageError: If the pairs cannot be written in this form, or the folder is in use.
    """
    check_form(data, form)
    table, kept = data.table, data.partition.side.numpy() != DROPPED
    with fill_atomically(require_empty(folder)) as temporary:
        match form:
            case 'npy':
                np.save(temporary / 'kept.npy', _uids(table, kept))
            case 'parquet':
                pq.write_table(_keys(table, kept), temporary / 'kept.parquet')
            case 'csv':
                _write_csv(temporary / 'kept.tsv', table, kept)
            case 'webdataset':
                write_samples(temporary / 'train', _samples(table, kept))
        _write_record(temporary / RECORD, data, kept)
    return int(kept.sum())


def check_form(data: PairsDataModule, form: Form) -> None:
    """Refuses what cannot be written, before pictures are decoded.

    Raises:
        UsageError: If ``form`` is unknown, or pairs are no files of the user's.
    """
    if form not in get_args(Form):
        raise UsageError(f'form must be one of {", ".join(get_args(Form))}, got {form!r}.')
    if data.attacks:
        raise UsageError(
            'data.attacks adds pairs that are in no file: set --data.attacks={}, or write them with clipward export.'
        )
    table = data.source
    if form == 'csv' and not isinstance(table.opener, FolderImages):
        raise UsageError('form=csv lists files of pictures, and these pairs have none of their own: use webdataset.')
    if form == 'npy' and ((uid := table.keys.get('uid')) is None or uid.null_count):
        missing = len(table) if uid is None else uid.null_count
        raise UsageError(
            f'form=npy lists uids, which {missing:,} of {len(table):,} pairs do not have: use parquet, or webdataset.'
        )


def _uids(table: PairTable, kept: Mask) -> np.ndarray:
    """Halves of the uids of the kept pairs, sorted: DataComp's tools find samples by bisection."""
    names = table.keys['uid'].filter(pa.array(kept)).to_pylist()
    try:
        halves = [(int(name[:-16], 16), int(name[-16:], 16)) for name in names]
        return np.sort(np.array(halves, UIDS))
    except (ValueError, OverflowError) as error:
        raise UsageError(f'form=npy: a uid is no number of 32 hexadecimal digits ({error}): use parquet.') from error


def _keys(table: PairTable, kept: Mask) -> pa.Table:
    columns = {'key': table.names(), 'caption': table.caption}
    if (uid := table.keys.get('uid')) is not None and uid.null_count < len(uid):
        columns['uid'] = uid
    return pa.table(columns).filter(pa.array(kept))


def _write_csv(path: Path, table: PairTable, kept: Mask) -> None:
    assert isinstance(table.opener, FolderImages)  # as _check makes sure
    root = table.opener.root.resolve()
    with open_csv(path, '\t') as lines:
        lines.writerow(['filepath', 'title'])
        for _, image, caption in _pairs(table, kept):
            lines.writerow([str(root / image), caption])
    missing = int(np.asarray(pc.is_in(table.caption, value_set=pa.array(_MISSING)))[kept].sum())
    if missing:
        log.warning('%d captions, such as NA, are read by open_clip as missing: use form=webdataset', missing)


def _samples(table: PairTable, kept: Mask) -> Iterator[Sample]:
    """The kept pairs as samples of shards; those that turn out to be unreadable are marked as not kept."""
    uids = table.keys.get('uid')
    for row, _, caption in tqdm(_pairs(table, kept), 'copying', total=int(kept.sum()), leave=False):
        try:
            extension, content = original_file(table, row)
        except UnreadableImage:
            kept[row] = False
            continue
        members = {extension: content, 'txt': caption.encode()}
        if uids is not None and (uid := uids[row].as_py()) is not None:
            members['json'] = json.dumps({'uid': uid}).encode()
        yield f'{row:09d}', members


def _pairs(table: PairTable, kept: Mask) -> Iterator[tuple[int, str, str]]:
    """Row, reference of the picture and caption of each kept pair."""
    rows = np.flatnonzero(kept)
    for start in range(0, len(rows), _CAPTIONS_AT_ONCE):
        block = rows[start : start + _CAPTIONS_AT_ONCE]
        images = table.image.take(pa.array(block)).to_pylist()
        yield from zip(block.tolist(), images, table.captions(block), strict=True)


def _write_record(path: Path, data: PairsDataModule, kept: Mask) -> None:
    """Writes why each pair is left out."""
    names = data.table.names()
    with open_csv(path) as lines:
        lines.writerow(['row', 'key', 'caption', 'left_out_by'])
        for row, _, caption in _pairs(data.table, ~kept):
            rules = [name for name, drop in data.drops.items() if drop[row]]
            filters = [f'{name} ({type(data.filters[name]).__name__})' for name in rules]
            lines.writerow([row, names[row].as_py(), caption, '; '.join(filters) or UNREADABLE])
