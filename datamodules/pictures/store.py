"""The clean stored pictures of a data set: from the cache, or decoded whenever they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.pictures.cache import (
    DecodedPictures,
    Pictures,
    decode_pictures,
    pictures_name,
    read_pictures,
    store_pictures,
)
from datamodules.pictures.near_copies import average_near_copies
from datamodules.pictures.stored import StoredPictures
from datamodules.rows.table import Origin, PairTable


class PictureStore:
    """Pictures of training and held-out pairs at one size, without any trigger.

    Held-out pictures are always cached: there are few of them, and attacks and metrics read them again and again.

    Args:
        train: The clean training pairs.
        heldout: Pairs outside the training set, or ``None``.
        size: Side of a stored picture in pixels.
        cache_dir: Folder of the caches.
        cached: Whether to decode training pictures once, into the cache.
        workers: Number of decoding processes.
        average_copies: Replace training pictures by the mean of their near copies, which differ by at most this many
            levels of 255; they must be cached.

    Attributes:
        unreadable: Rows of each table whose picture cannot be read. Empty for training pairs that are not cached,
            because their pictures have not been opened yet.
    """

    def __init__(
        self,
        train: PairTable,
        heldout: PairTable | None,
        size: int,
        cache_dir: Path,
        cached: bool,
        workers: int,
        average_copies: int | None = None,
    ) -> None:
        self.size, self.cache_dir, self.workers = size, cache_dir, workers
        self.average_copies = average_copies
        self.tables: dict[Origin, PairTable] = {'train': train}
        if heldout is not None:
            self.tables['heldout'] = heldout
        self.pictures: dict[Origin, Pictures] = {}
        self.stored: dict[Origin, StoredPictures] = {}
        self.unreadable: dict[Origin, frozenset[int]] = {'train': frozenset(), 'heldout': frozenset()}
        for origin, table in self.tables.items():
            if origin == 'heldout' or cached:
                self.stored[origin] = stored = store_pictures(table, size, cache_dir, workers)
                self.pictures[origin] = stored if origin == 'train' else stored.images  # held-out ones fit into memory
                self.unreadable[origin] = frozenset(np.flatnonzero(~stored.readable).tolist())
            else:
                self.pictures[origin] = DecodedPictures(table, size)
        if average_copies is not None:
            path = cache_dir / f'{self._name("train")}.npy'
            self.pictures['train'] = average_near_copies(self.stored['train'], path, average_copies)

    def __call__(self, origin: Origin, rows: np.ndarray) -> np.ndarray:
        """Stored pictures of some rows, uint8 (n, 3, size, size)."""
        return read_pictures(self.pictures[origin], rows)

    def decode(self, table: PairTable) -> tuple[np.ndarray, np.ndarray]:
        """Decodes and caches the pictures of any table at this size; see :func:`decode_pictures`."""
        return decode_pictures(table, self.size, self.cache_dir, self.workers)

    @property
    def name(self) -> str:
        """Identifies the pictures of all tables, in the names of caches that are made from them."""
        return '-'.join(map(self._name, self.tables))

    def _name(self, origin: Origin) -> str:
        is_averaged = origin == 'train' and self.average_copies is not None
        return pictures_name(self.tables[origin], self.size) + f'-averaged-{self.average_copies}' * is_averaged
