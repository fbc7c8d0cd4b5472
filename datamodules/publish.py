"""Writes protected pairs as files that anybody's code reads: pictures with noise, and captions with trigger words."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.files.atomic import check_space, fill_atomically
from datamodules.files.workers import worker_options
from datamodules.files.writers import require_empty
from datamodules.pairs import PairsDataModule
from datamodules.pictures.protected import ProtectedPictures
from datamodules.pictures.shared import rows_of_shared_pictures
from datamodules.protection import Protection
from datamodules.published_layouts import Layout, layout_of, write_new
from datamodules.rows.subsets import random_rows
from datamodules.text.allowed_tokens import words_of
from datamodules.text.trigger_words import insert_words, tokens_with
from datamodules.usage_error import UsageError, check_number

log = logging.getLogger(__name__)

_CAPTIONS_AT_ONCE = 8192
_BYTES_BESIDE_PIXELS = 1000  # of a picture, and of a pair in all tables, on average


class Pictures(NamedTuple):
    """The picture files.

    Attributes:
        row: First row of each file, ascending, (P,).
        name: Name of each file.
        psnr: How close each is to the clean picture, in dB, (P,).
        largest: Largest change of a value of each, in levels, (P,).
    """

    row: np.ndarray
    name: list[str]
    psnr: np.ndarray
    largest: np.ndarray


class Caption(NamedTuple):
    """A caption before and after.

    Attributes:
        clean: Its text.
        words: Words of its trigger.
        protected: Its text with the trigger.
        reads_back: Whether the tokenizer reads the tokens that the trigger was searched with.
    """

    clean: str
    words: str
    protected: str
    reads_back: bool


def publish(protection: Protection, folder: Path, heldout: bool = False, share: float = 1.0) -> dict[str, Any]:
    """Writes the protected pairs of a store.

    The set of a Flickr datamodule keeps its layout: ``Images/<photo>.png``, the file of captions, the list of the
    split. Others become ``train.csv`` with the columns row (its header is empty), ``image``, ``caption`` and, where
    pairs have classes, ``label``, their index; and ``images/<row>.png`` after the first row of each picture. Pairs that
    share a picture and its noise share a file.
    Beside them:

    - ``manifest.parquet``: for every pair its row, picture file and its source, unit of noise, whether it is
      protected, caption before and after, trigger words, whether the caption reads back, PSNR, and largest noise.
    - ``protection.json``: what the noise was made for, and that it is within eps.

    The folder has a temporary name until it is complete. Pairs that were left out of the run are left out here.

    Args:
        protection: The pairs and their store, opened.
        folder: Folder to write; must be missing or empty.
        heldout: Copy the held-out pairs too, without noise and triggers.
        share: Share of the pictures that are protected, with all their captions, in (0, 1]; the others are published
            as they are. They are drawn by the seed of the run, and a larger share has all those of a smaller one.

    Returns:
        The content of ``protection.json``.

    Raises:
        UsageError: If the folder is in use, the disk is full, pairs are poisoned, held-out pairs show protected
            pictures, noise exceeds eps, or ``share`` is out of its range.
    """
    check_number('share', share, '(0, 1]')
    if protection.data.attacks and protection.data.poison:
        raise UsageError('data.attacks plants poisons, which would be published as yours: set it to {}.')
    if heldout:
        _check_heldout(protection.data)
    rows, layout = np.flatnonzero(protection.store.unit >= 0), layout_of(protection.data)
    first, file = _files(protection, rows)
    protected = choose_rows(protection, share)
    with fill_atomically(require_empty(folder, 'out')) as temporary:
        side = protection.store.settings.size
        size = len(first) * (3 * side * side + _BYTES_BESIDE_PIXELS) + len(rows) * _BYTES_BESIDE_PIXELS
        check_space(temporary.parent, size, folder)
        pictures = _write_pictures(temporary / layout.folder, protection, first, layout.names(first), protected)
        captions = list(protect_captions(protection, rows, protected))
        names = [pictures.name[number] for number in file]
        layout.write(temporary, rows, names, [caption.protected for caption in captions], heldout)
        lines = _list_pairs(protection, layout, rows, protected, pictures, file, captions)
        pq.write_table(lines, temporary / 'manifest.parquet')
        summary = {'share': share, **_summarize(protection, pictures, captions)}
        (temporary / 'protection.json').write_text(json.dumps(summary, indent=1) + '\n', 'utf-8')
    return summary


def _check_heldout(data: PairsDataModule) -> None:
    """Refuses to publish a protected picture once more, as it is."""
    if len(rows := rows_of_shared_pictures(data.pictures)):
        first = data.pictures.tables['heldout'].image[int(rows[0])].as_py()
        raise UsageError(
            f'heldout=true would publish protected pictures as they are, since {len(rows):,} held-out pairs show them, '
            f'first {first!r}: take these out of the held-out pairs, or leave heldout=false.'
        )


# --- pictures -------------------------------------------------------------------------------------------------------


def choose_rows(protection: Protection, share: float) -> np.ndarray:
    """Draws a share of the pictures; tells for each row of the table whether it shows one of them, bool (N,)."""
    hashes, has_noise = protection.data.picture_hashes(), protection.store.unit >= 0
    pictures = np.unique(hashes[has_noise])
    drawn = random_rows(len(pictures), max(1, round(share * len(pictures))), protection.settings.seed)
    return np.isin(hashes, pictures[drawn]) & has_noise


def _files(protection: Protection, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each picture file, ascending, and the file of each row: one for a picture with its noise."""
    unit = protection.store.unit[rows].astype(np.int64)
    key = _number_strings(protection.data.table.image)[rows] * (unit.max(initial=0) + 1) + unit
    _, first, file = np.unique(key, return_index=True, return_inverse=True)
    return rows[np.sort(first)], first.argsort().argsort()[file]


def _number_strings(strings: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A number for each string, equal for equal ones, int64."""
    chunked = strings if isinstance(strings, pa.ChunkedArray) else pa.chunked_array([strings])
    encoded = chunked.dictionary_encode().unify_dictionaries()
    return np.concatenate([np.asarray(chunk.indices).astype(np.int64) for chunk in encoded.chunks])


def _write_pictures(
    temporary: Path, protection: Protection, rows: np.ndarray, names: list[str], protected: np.ndarray
) -> Pictures:
    data, store = protection.data, protection.store
    temporary.mkdir()
    noisy = ProtectedPictures(data.images, store, rows, protected[rows])
    loader = DataLoader(noisy, batch_size=None, **worker_options(data.num_workers))
    psnr, largest = np.empty(len(rows)), np.empty(len(rows), np.int64)
    for number, picture in enumerate(tqdm(loader, 'pictures', leave=False)):
        write_new(temporary / names[number], picture.png)
        psnr[number], largest[number] = picture.psnr, picture.largest
    if (largest > store.settings.eps).any():
        raise UsageError(
            f'{store.folder} holds noise of {largest.max()} levels, which is above its eps={store.settings.eps}: it is '
            f'damaged, make it anew with clipward fit.'
        )
    return Pictures(rows, names, psnr, largest)


# --- captions -------------------------------------------------------------------------------------------------------


def protect_captions(protection: Protection, rows: np.ndarray, protected: np.ndarray) -> Iterator[Caption]:
    """Puts the words of their triggers into the captions of some rows.

    Args:
        protection: The pairs and their store, opened.
        rows: The rows.
        protected: Whether to do so, by row of the whole table, bool (N,).
    """
    for start in range(0, len(rows), _CAPTIONS_AT_ONCE):
        part = rows[start : start + _CAPTIONS_AT_ONCE]
        clean, triggers = protection.data.table.captions(part), protection.store.trigger(part)
        for caption, row, trigger in zip(clean, part.tolist(), triggers, strict=True):
            yield _protect_caption(protection, caption, row, trigger if protected[row] else trigger[:0])


def _protect_caption(protection: Protection, caption: str, row: int, trigger: np.ndarray) -> Caption:
    if not len(trigger):
        return Caption(caption, '', caption, True)
    place, words = int(protection.place[row]), ' '.join(words_of(trigger))
    expected = tokens_with(protection.tokens[row].astype(np.int64), place, trigger)
    return Caption(caption, words, *insert_words(caption, words, place, expected, protection.data.tokenizer))


# --- what is said of them -------------------------------------------------------------------------------------------


def _list_pairs(
    protection: Protection,
    layout: Layout,
    rows: np.ndarray,
    protected: np.ndarray,
    pictures: Pictures,
    file: np.ndarray,
    captions: list[Caption],
) -> pa.Table:
    columns = {
        'row': rows,
        'image': [f'{layout.folder}/{pictures.name[number]}' for number in file],
        'source': protection.data.table.names().take(pa.array(rows)),
        'unit': protection.store.unit[rows],
        'protected': protected[rows],
        'caption': [caption.clean for caption in captions],
        'protected_caption': [caption.protected for caption in captions],
        'trigger': [caption.words for caption in captions],
        'reads_back': [caption.reads_back for caption in captions],
        'psnr_db': pictures.psnr[file],
        'max_noise': pictures.largest[file],
    }
    return pa.table(columns)


def _summarize(protection: Protection, pictures: Pictures, captions: list[Caption]) -> dict[str, Any]:
    store, is_changed = protection.store, np.isfinite(pictures.psnr)
    psnr, read_back = pictures.psnr[is_changed], sum(caption.reads_back for caption in captions)
    if read_back < len(captions):
        log.warning(
            '%d of %d captions cannot be written so that they are read as in the run: manifest.parquet says which',
            len(captions) - read_back, len(captions),
        )  # fmt: skip
    return {
        'settings': {**asdict(store.settings), 'rounds': store.rounds},
        'pairs': len(captions),
        'pairs_left_out': len(store.unit) - len(captions),
        'pictures': len(pictures.name),
        'pictures_unchanged': int((~is_changed).sum()),
        'max_noise': int(pictures.largest.max(initial=0)),
        'pictures_above_eps': int((pictures.largest > store.settings.eps).sum()),
        'psnr_db': {'mean': float(psnr.mean()), 'min': float(psnr.min())} if len(psnr) else None,
        'captions_changed': sum(caption.protected != caption.clean for caption in captions),
        'captions_read_back': read_back,
    }
