"""Groups of pairs that say or show the same, which is how backdoors that nobody planted look."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Clusters(NamedTuple):
    """Groups of pairs.

    Attributes:
        largest: Rows of the largest groups, ascending, the largest group first.
        groups: Number of groups of two pairs or more.
        pairs: Number of pairs in them.
    """

    largest: list[Rows]
    groups: int
    pairs: int


def clusters(group: Rows, rows: Rows, shown: int) -> Clusters:
    """The largest groups of two pairs or more.

    Args:
        group: Number of the group of each pair, int64 (N,).
        rows: Rows of the pairs that count, ascending.
        shown: Most groups to return the rows of.
    """
    _, place, size = np.unique(group[rows], return_inverse=True, return_counts=True)
    by_group = rows[np.argsort(place, kind='stable')]
    start = np.cumsum(size) - size
    several = np.flatnonzero(size > 1)
    order = several[np.argsort(-size[several], kind='stable')]
    largest = [by_group[start[place] : start[place] + size[place]] for place in order[:shown]]
    return Clusters(largest, len(several), int(size[several].sum()))


def caption_groups(captions: pa.Array | pa.ChunkedArray) -> Rows:
    """Number of the group of captions that are equal but for capitals, int64 (N,)."""
    lower = pc.utf8_lower(captions)
    return np.asarray(pc.index_in(lower, value_set=pc.unique(lower)), np.int64)
