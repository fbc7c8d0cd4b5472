"""Copies of one picture that differ a little, such as by noise that was added to each, and the mean of them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.files.array_cache import stored_array
from datamodules.pictures.copies import picture_hashes
from datamodules.pictures.stored import StoredPictures

log = logging.getLogger(__name__)

_THUMBNAIL = 3  # pixels: with 8, the search takes ten times as long and names hardly fewer candidates
_ROUNDING = 1e-3  # of means in float32, in levels
_PICTURES_AT_ONCE = 256


def average_near_copies(pictures: StoredPictures, path: Path, levels: int) -> np.ndarray:
    """Replaces each picture by the mean of its near copies and itself, in a file that is made once.

    Equal pictures count once. Unreadable ones stay black.

    Args:
        pictures: The pictures.
        path: The file, which ends in ``.npy``.
        levels: Largest difference of two copies in any value, in levels of 255.

    Returns:
        Pictures, uint8 (N, 3, h, h), memory-mapped.
    """

    def fill(averaged: np.ndarray) -> None:
        rows = np.flatnonzero(pictures.readable)
        hashes = picture_hashes(pictures.__getitem__, len(pictures))[rows]
        _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
        distinct, copies = rows[first], find_near_copies(pictures, rows[first], levels)
        shown: dict[bytes, list[int]] = {}  # rows by their copies, most of which have the same
        for row, which in zip(rows.tolist(), number.tolist(), strict=True):
            shown.setdefault(copies[which].tobytes(), []).append(row)
        for alike, of_them in shown.items():
            averaged[of_them] = np.rint(pictures[distinct[np.frombuffer(alike, np.int64)]].mean(0))
        with_copies = sum(len(found) > 1 for found in copies)
        log.warning(
            'data.average_copies: %d of %d different pictures are averaged with near copies', with_copies, len(copies)
        )

    return stored_array(path, pictures.images.shape, np.uint8, fill)


def find_near_copies(pictures: StoredPictures, rows: np.ndarray, levels: int) -> list[np.ndarray]:
    """Finds the near copies of each of some pictures among them.

    Where no value differs by more than ``levels``, no mean of values does. So thumbnails name the candidates, and only
    these are compared.

    Args:
        pictures: The pictures.
        rows: Rows of different pictures, (P,).
        levels: Largest difference of two copies in any value, in levels of 255.

    Returns:
        Positions in ``rows`` of the copies of each, itself included, ascending, int64.
    """
    from scipy.spatial import KDTree  # takes a second to import

    tree = KDTree(make_thumbnails(pictures, rows))
    candidates = tree.query_pairs(levels + _ROUNDING, np.inf, output_type='ndarray')
    parts = np.array_split(candidates, -(-len(candidates) // _PICTURES_AT_ONCE) or 1)
    pairs = np.concatenate([part[_differences(pictures, rows[part]) <= levels] for part in parts])
    itself = np.arange(len(rows))
    one, other = (np.concatenate([pairs[:, side], pairs[:, 1 - side], itself]) for side in (0, 1))
    return np.split(other[np.lexsort((other, one))], np.bincount(one, minlength=len(rows)).cumsum()[:-1])


def make_thumbnails(pictures: StoredPictures, rows: np.ndarray) -> np.ndarray:
    """Means over the fields of a grid of 3 x 3, float32 (P, 27)."""
    parts = np.array_split(rows, -(-len(rows) // _PICTURES_AT_ONCE) or 1)
    pools = (F.adaptive_avg_pool2d(torch.from_numpy(pictures[part]).float(), _THUMBNAIL) for part in parts)
    return torch.cat([pool.flatten(1) for pool in pools]).numpy()


def _differences(pictures: StoredPictures, pairs: np.ndarray) -> np.ndarray:
    """Largest difference of any value of the pictures of each pair of rows, (B, 2) -> (B,)."""
    one, other = (pictures[pairs[:, side]].astype(np.int16) for side in (0, 1))
    return np.abs(one - other).max((1, 2, 3), initial=0)
