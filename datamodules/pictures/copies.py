"""Which pairs have the very same picture."""

from __future__ import annotations

import hashlib

import numpy as np
from tqdm import tqdm

from datamodules.pictures.batches import PairImages

_CHUNK = 256  # pictures read at once


def picture_hashes(images: PairImages, rows: int) -> np.ndarray:
    """A number for each row's stored picture, int64 (rows,): the same for the same pixels, else another (64 bits)."""
    hashes = np.empty(rows, np.int64)
    for start in tqdm(range(0, rows, _CHUNK), 'looking for copies', leave=False, disable=rows < 200_000):
        chunk = np.arange(start, min(start + _CHUNK, rows))
        digests = (hashlib.blake2b(picture.tobytes(), digest_size=8).digest() for picture in images(chunk))
        hashes[chunk] = np.frombuffer(b''.join(digests), np.int64)
    return hashes


def least_of_copies(value: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The least value among the pairs that share a pair's picture, NaN where a pair has no value itself.

    Args:
        value: A number for each pair, (N,); NaN where unknown.
        picture: What :func:`picture_hashes` returned, (N,).
    """
    _, number = np.unique(picture, return_inverse=True)
    least = np.full(number.max(initial=-1) + 1, np.inf, value.dtype)
    np.fmin.at(least, number, value)
    return np.asarray(np.where(np.isnan(value), np.nan, least[number]), value.dtype)
