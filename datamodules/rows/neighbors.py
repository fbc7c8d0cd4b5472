"""Exact nearest neighbors of points that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.rows.embeddings import CHUNK_POINTS, Points, Rows

QUERY_POINTS = 512  # points whose neighbors are searched at once; 34 MB of distances to a chunk
DEVICE_QUERY_POINTS = 8192  # the same on a device, to which all points must travel each time; 0.5 GB
_SPARE = 8  # candidates beyond the k nearest: distances from inner products are rounded, those of candidates are not


class Nearest(NamedTuple):
    """The k nearest other points of some points, nearest first.

    Attributes:
        distance: Euclidean distances, float32 (Q, k).
        neighbor: Their numbers, int32 (Q, k).
    """

    distance: NDArray[np.float32]
    neighbor: NDArray[np.int32]


def nearest(
    points: Points, k: int, queries: Rows | None = None, device: str | torch.device = 'cpu'
) -> Iterator[tuple[Rows, Nearest]]:
    """Finds the k nearest other points of each point by comparing it with every point, a block at a time.

    The points are moved by their mean first: of points far from the origin, inner products would round away what
    tells them apart. A point is no neighbor of itself, but copies of it are.

    Args:
        points: P points, more than ``k``.
        k: Neighbors of each.
        queries: Numbers of the points whose neighbors are wanted, int64 (Q,); all by default.
        device: Where to compute, such as ``cuda``.

    Yields:
        The numbers of the next points, and their neighbors.
    """
    center = torch.from_numpy(points.mean().astype(np.float32)).to(device)
    queries = np.arange(len(points)) if queries is None else queries
    size = QUERY_POINTS if center.device.type == 'cpu' else DEVICE_QUERY_POINTS
    for start in range(0, len(queries), size):
        block = queries[start : start + size]
        yield block, _nearest_of(points, block, k, center)


def _nearest_of(points: Points, block: Rows, k: int, center: Tensor) -> Nearest:
    query = _load(points.read(block), center)
    candidates = _candidates(points, block, min(k + _SPARE, len(points) - 1), query, center)
    candidates = candidates.sort(1).values  # of equally distant points, the first ones count
    vectors = _load(points.read(candidates.flatten().cpu().numpy()), center).unflatten(0, candidates.shape)
    distance = vectors.sub_(query[:, None]).norm(dim=-1)
    distance, order = (x[:, :k] for x in distance.sort(stable=True))
    index = candidates.gather(1, order)
    return Nearest(distance.cpu().numpy(), index.cpu().numpy().astype(np.int32))


def _candidates(points: Points, block: Rows, count: int, query: Tensor, center: Tensor) -> Tensor:
    """Numbers of about the ``count`` nearest other points of each query, int64 (Q, count), in no order."""
    own = torch.from_numpy(block).to(query.device)
    best = query.new_full((len(query), 0), torch.inf)
    index = own.new_zeros(len(query), 0)
    for part, chunk in points.chunks(CHUNK_POINTS):
        reference = _load(chunk, center)
        squared = torch.addmm(reference.norm(dim=1).square(), query, reference.T, alpha=-2)  # less that of the query
        inside = torch.nonzero((own >= part.start) & (own < part.start + len(chunk))).flatten()
        squared[inside, own[inside] - part.start] = torch.inf
        near, place = squared.topk(min(count, len(chunk)), largest=False, sorted=False)
        best, index = torch.cat([best, near], 1), torch.cat([index, place + part.start], 1)
        best, kept = best.topk(min(count, best.shape[1]), largest=False, sorted=False)
        index = index.gather(1, kept)
    return index


def _load(coordinates: NDArray[np.float32], center: Tensor) -> Tensor:
    return torch.from_numpy(coordinates).to(center.device).sub_(center)
