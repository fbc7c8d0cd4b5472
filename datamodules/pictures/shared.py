"""Held-out pictures that are also trained on, which makes what is measured on them too good."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.files.confinement import link_follower
from datamodules.pictures.images import FolderImages
from datamodules.pictures.store import PictureStore
from datamodules.pictures.stored import StoredPictures
from datamodules.rows.row_sets import blocks
from datamodules.rows.table import PairTable, Strings, list_strings

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
    places, places_of_training = _place_finder(heldout), _place_finder(train)
    if places is not None and places_of_training is not None:
        heldout_places = places(heldout.image)
        for block in blocks(len(train)):  # the places of all take as much memory as the table
            trained = places_of_training(train.part(block).image)
            is_shared |= np.asarray(pc.is_in(heldout_places, value_set=trained))
    return np.flatnonzero(is_shared)


def _place_finder(table: PairTable) -> Callable[[Strings], pa.Array] | None:
    """Returns what turns references into places: the real path of a file, or a shard's path with the place in it.

    ``None`` for pictures that are not in a folder.
    """
    if (root := getattr(table.opener, 'root', None)) is None:
        return None
    root = root.resolve()
    follow = link_follower(root) if isinstance(table.opener, FolderImages) else partial(os.path.join, root)

    def find(references: Strings) -> pa.Array:
        return pa.array([os.fsencode(follow(reference)) for reference in list_strings(references)], pa.binary())

    return find


def _digest(picture: np.ndarray) -> bytes:
    return hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
