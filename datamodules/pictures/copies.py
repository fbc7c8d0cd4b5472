"""Finds pairs that share a picture, by hashes of the stored pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from tqdm import tqdm

Copies = Literal['apart', 'together']  # how pairs with one picture are judged: each for itself, or all by the worst
_PICTURES_AT_ONCE = 256


def picture_hashes(images: Callable[[np.ndarray], np.ndarray], rows: int) -> np.ndarray:
    """Hashes each row's stored picture to 64 bits, int64 (rows,): equal for equal pixels, otherwise different.

    Args:
        images: Gives the pictures of some rows, uint8 (n, 3, h, w).
        rows: Number of rows.
    """
    hashes = np.empty(rows, np.int64)
    for start in tqdm(range(0, rows, _PICTURES_AT_ONCE), 'hashing pictures', leave=False, disable=rows < 200_000):
        chunk = np.arange(start, min(start + _PICTURES_AT_ONCE, rows))
        digests = (hashlib.blake2b(picture.tobytes(), digest_size=8).digest() for picture in images(chunk))
        hashes[chunk] = np.frombuffer(b''.join(digests), np.int64)
    return hashes


def least_of_copies(value: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Smallest value among all pairs with the same picture, for each pair; NaN where a pair's own value is NaN.

    Args:
        value: Value of each pair, (N,); NaN where unknown.
        picture: Hash of each pair's picture, from :func:`picture_hashes`, (N,).
    """
    _, number = np.unique(picture, return_inverse=True)
    least = np.full(number.max(initial=-1) + 1, np.inf, value.dtype)
    np.fmin.at(least, number, value)
    return np.asarray(np.where(np.isnan(value), np.nan, least[number]), value.dtype)
