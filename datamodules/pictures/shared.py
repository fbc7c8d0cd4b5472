"""Held-out pictures that are also trained on, which makes what is measured on them too good."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.pictures.store import PictureStore
from datamodules.pictures.stored import StoredPictures
from datamodules.rows.row_sets import blocks
from datamodules.rows.table import PairTable

log = logging.getLogger(__name__)


def warn_of_shared_pictures(store: PictureStore) -> None:
    """Logs how many held-out pairs show a training picture."""
    if len(rows := rows_of_shared_pictures(store)):
        heldout = store.tables['heldout']
        log.warning(
            '%d of %d held-out pairs show a picture that is also trained on, so metrics on them are too good: leave '
            'them out of one of the two; first: %r', len(rows), len(heldout), heldout.image[int(rows[0])].as_py(),
        )  # fmt: skip


def rows_of_shared_pictures(store: PictureStore) -> np.ndarray:
    """Held-out rows that show a training picture, ascending, int64: by pixels if both are stored, else by path."""
    if 'heldout' not in store.tables:
        return np.empty(0, np.int64)
    if 'train' in store.stored:
        return rows_of_equal_pixels(heldout=store.stored['heldout'], train=store.stored['train'])
    return rows_of_equal_paths(heldout=store.tables['heldout'], train=store.tables['train'])


def rows_of_equal_pixels(heldout: StoredPictures, train: StoredPictures) -> np.ndarray:
    """Held-out rows whose stored picture equals a training picture, ascending, int64."""
    candidates = np.flatnonzero(np.isin(heldout.checksum, train.checksum) & heldout.readable)
    matches = np.flatnonzero(np.isin(train.checksum, heldout.checksum[candidates]) & train.readable)
    trained = {_digest(train.images[row]) for row in matches}
    return np.array([row for row in candidates if _digest(heldout.images[row]) in trained], np.int64)


def rows_of_equal_paths(heldout: PairTable, train: PairTable) -> np.ndarray:
    """Held-out rows whose picture is in the same place as a training picture, ascending, int64."""
    is_shared = np.zeros(len(heldout), bool)
    if (places := _places(heldout)) is not None:
        for block in blocks(len(train)):  # the places of all take as much memory as the table
            if (trained := _places(train.part(block))) is not None:
                is_shared |= np.asarray(pc.is_in(places, value_set=trained))
    return np.flatnonzero(is_shared)


def _places(table: PairTable) -> pa.Array | pa.ChunkedArray | None:
    """Path of each picture, or of its shard with the place in it; ``None`` for pictures that are not in a folder."""
    root = getattr(table.opener, 'root', None)
    return None if root is None else pc.binary_join_element_wise(str(root.resolve()), table.image, '/')


def _digest(picture: np.ndarray) -> bytes:
    return hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
