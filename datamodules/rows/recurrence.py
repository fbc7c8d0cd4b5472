"""How much pictures share with those of other pairs whose captions agree: what a trigger makes them have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.rows.draws import permutation
from datamodules.rows.embeddings import Points, Rows, distinct
from datamodules.rows.neighbors import Nearest, nearest

Scores = NDArray[np.float64]
NEIGHBORS = 8  # pictures that each is compared with; of a trigger with fewer, the score is lower
RARE = 0.95  # share of the scores by chance that are below 1
_CAPTION_BLOCK = 1024  # pairs whose neighbors' captions are read at once
_SHUFFLE_KEY = 0x7368_7566  # key of the shuffle of captions


def recurrence(points: Points, captions: Points, device: str = 'cpu') -> Scores:
    """Mean over the nearest other pictures of how close they are, times how much their captions agree, (P,).

    Close pictures alone prove little, as a sky is close to a sky, and so does an agreement of captions. A trigger makes
    pictures close and goes with the captions of its target. Copies of a picture count once: they share no more than
    what the picture itself has.

    The unit is what one pair in twenty reaches by chance, where each has the caption of another pair. Poisons do not
    change it: without their captions, their score is like that of any pair.

    Args:
        points: A vector of the picture of each pair; 0 where there is nothing to compare, which scores 0.
        captions: Embedding of the caption of each pair.
        device: Where neighbors are searched.
    """
    score = np.zeros(len(points))
    filled = np.concatenate([part.any(1) for _, part in points.chunks()]).nonzero()[0]
    chosen, copies_of = distinct(points.take(filled))
    if len(chosen) <= NEIGHBORS:
        return score
    found = _nearest_of_each(points.take(filled[chosen]), device)
    closeness, neighbors = close_to(found.distance)[copies_of], chosen[found.neighbor[copies_of]]
    own, shuffled = (captions.take(rows) for rows in (filled, filled[permutation(len(filled), _SHUFFLE_KEY)]))
    by_chance = np.quantile(_weighted_agreement(closeness, neighbors, shuffled), RARE)
    score[filled] = _weighted_agreement(closeness, neighbors, own) / (by_chance if by_chance > 0 else np.inf)
    return score


def close_to(distance: NDArray[np.floating]) -> Scores:
    """Closeness of neighbors, in [0, 1]: 1 for equal points, 0 from the typical distance of all these neighbors on."""
    squared = np.square(distance, dtype=np.float64)
    return np.clip(1 - squared / max(np.median(squared), np.finfo(np.float64).tiny), 0, 1)


def _nearest_of_each(points: Points, device: str) -> Nearest:
    parts = [found for _, found in nearest(points, NEIGHBORS, device=device)]
    return Nearest(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _weighted_agreement(closeness: Scores, neighbors: Rows, captions: Points) -> Scores:
    """Mean over neighbors, (P, k), of closeness times the cosine of captions, less the mean of all captions, (P,)."""
    center, score = captions.mean(), np.empty(len(captions))
    for start in range(0, len(captions), _CAPTION_BLOCK):
        block = slice(start, start + _CAPTION_BLOCK)
        others = neighbors[block]
        own = _directions(captions.read(block) - center)
        theirs = _directions(captions.read(others.ravel()) - center).reshape(*others.shape, -1)
        score[block] = (closeness[block] * np.einsum('pd,pkd->pk', own, theirs)).mean(1)
    return score


def _directions(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norm, np.finfo(np.float32).tiny))
