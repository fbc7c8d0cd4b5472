"""Groups of points that are nearly the same, such as copies of a picture that were saved anew."""

from __future__ import annotations

import numpy as np

from datamodules.rows.embeddings import Points, Rows, distinct
from datamodules.rows.neighbors import nearest

NEIGHBORS = 4  # links that each point has, at most; enough to hold a large group together


def look_alikes(points: Points, reach: float, device: str = 'cpu') -> tuple[Rows, Rows]:
    """Links points that are nearly the same; whoever is linked with one of a group belongs to it.

    Args:
        points: The points.
        reach: Largest distance of a link.
        device: Where neighbors are searched.

    Returns:
        The two ends of each link, int64 (L,) each. Equal points are linked, too.
    """
    chosen, copies_of = distinct(points)
    ends = [(np.arange(len(points)), chosen[copies_of])]
    if len(chosen) > NEIGHBORS:
        for block, found in nearest(points.take(chosen), NEIGHBORS, device=device):
            near, place = np.nonzero(found.distance <= reach)
            ends.append((chosen[block[near]], chosen[found.neighbor[near, place]]))
    first, second = zip(*ends, strict=True)
    return np.concatenate(first), np.concatenate(second)


def join(count: int, first: Rows, second: Rows) -> Rows:
    """Number of the group of each of ``count`` points, int64 (count,), given the two ends of each link."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = first.astype(np.int32), second.astype(np.int32)  # with 64 bits, SciPy 1.11 finds no group and says nothing
    links = coo_array((np.ones(len(first), bool), ends), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)
