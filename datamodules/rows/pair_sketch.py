"""Which pairs a model was trained on: a sketch that is small enough for every checkpoint.

A pair is known by the name of its picture and its caption, as in a ledger. A bottom-k sketch (Broder, 1997) keeps the
smallest of the pairs' hashes. Whatever other pairs there are, those whose hashes are as small are a random sample of
them, and the sketch tells of each whether it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from datamodules.rows.row_sets import blocks
from datamodules.rows.table import PairTable, list_strings

SIZE = 2**17  # hashes, 1 MB: all of a small set; of 3 million pairs, enough to judge a few thousand by over a hundred
_PAIRS_AT_ONCE = 2**20  # whose hashes are in memory
_LARGEST = np.iinfo(np.int64).max


def hash_pairs(table: PairTable) -> np.ndarray:
    """A hash of the picture's name and the caption of each row, int64 (N,), the same on every machine."""
    pairs = zip(list_strings(table.names()), list_strings(table.caption), strict=True)
    return np.fromiter((_hash(f'{name}\0{caption}') for name, caption in pairs), np.int64, len(table))


def sketch(hashes: np.ndarray) -> Tensor:
    """The smallest ``SIZE`` of the pairs' hashes, ascending, int64; all of them if there are fewer."""
    return torch.from_numpy(np.unique(hashes)[:SIZE].copy())


def sketch_pairs(table: PairTable, chosen: np.ndarray) -> Tensor:
    """The sketch of the chosen rows of a table, bool (N,)."""
    smallest = torch.empty(0, dtype=torch.int64)
    for block in blocks(len(table), _PAIRS_AT_ONCE):
        hashes = hash_pairs(table.part(block))[chosen[block]]
        smallest = sketch(np.concatenate([smallest.numpy(), hashes]))
    return smallest


def share_in(sketches: Sequence[Tensor], hashes: np.ndarray) -> float | None:
    """Estimates which fraction of some pairs is among those of any sketch.

    Args:
        sketches: What :func:`sketch` returned.
        hashes: Hashes of the pairs to find, int64 (N,).

    Returns:
        Fraction in [0, 1]: exact if every sketch holds all of its pairs, otherwise that of the sample that can be
        compared; ``None`` if there is no sketch, or none of the pairs is in the sample.
    """
    if not sketches:
        return None
    limit = min(int(known[-1]) if len(known) == SIZE else _LARGEST for known in sketches)
    sample = hashes[hashes <= limit]
    return float(np.isin(sample, torch.cat([*sketches]).numpy()).mean()) if len(sample) else None


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), 'little', signed=True)
