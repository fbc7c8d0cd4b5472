"""Scores that tell poisoned pairs: from embeddings, and from pictures alone; no truth enters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.fine_detail import patterns, salient_windows, window_sides
from datamodules.pictures.thumbnails import REACH, thumbnails
from datamodules.rows.detectors import Detector, DetectorName
from datamodules.rows.embeddings import Points, Rows, distinct
from datamodules.rows.look_alikes import join, look_alikes
from datamodules.rows.recurrence import recurrence
from datamodules.rows.subsets import random_parts
from datamodules.rows.suspicion import Scores, standing_out, suspicion
from datamodules.usage_error import UsageError

COMPARED = 20_000  # pairs that each one is compared with, at random; twice as many take twice the time
NAMES = ('similarity', 'density', 'copies', 'pattern', 'detail')
DENSITY: DetectorName = 'dao'  # of the detectors that look at neighbors alone, the one of Huang et al. (ICLR 2025)
OF_A_COPY = 2.0  # what each further copy counts for: a picture that occurs five times as often as usual stands out
_PICTURES_AT_ONCE = 256

MakeVectors: TypeAlias = Callable[[NDArray[np.uint8]], Tensor]  # pictures (B, 3, h, w) -> vectors (B, D)


class PairScores(NamedTuple):
    """What speaks against each pair; all NaN for pairs that were not embedded.

    Attributes:
        similarity: Cosine of picture and caption, (N,).
        standing: By name, how far each pair stands out, (N,); see :mod:`datamodules.rows.suspicion`. ``similarity``:
            picture and caption do not match. ``density``: few pictures are like this one. ``copies``: the picture
            occurs more often than usual. ``pattern``: pictures with similar captions carry the same faint pattern.
            ``detail``: the same for a small detail anywhere in the picture.
        group: Number of the group of nearly identical pictures, int64 (N,).
    """

    similarity: NDArray[np.float32]
    standing: dict[str, Scores]
    group: Rows

    @property
    def suspicion(self) -> Scores:
        """The largest of the scores of each pair, (N,)."""
        return suspicion(self.standing)[0]

    @property
    def reason(self) -> NDArray[np.int64]:
        """Which of the scores that is, as an index into :data:`NAMES`, int64 (N,)."""
        return suspicion(self.standing)[1]


def score_pairs(
    images: OverlaidPictures,
    hashes: NDArray[np.int64],
    image: np.ndarray,
    text: np.ndarray,
    compared: int | None = COMPARED,
    device: str = 'cpu',
) -> PairScores:
    """Scores pairs by their stored pictures and by embeddings of pictures and captions.

    Args:
        images: The stored pictures.
        hashes: Hash of each, int64 (N,).
        image: Embeddings of the pictures, (N, D), NaN for pairs that were not embedded.
        text: Embeddings of the captions, (N, D).
        compared: How many pairs, drawn at random, each one is compared with at least; ``None`` for all.
        device: Where neighbors are searched.

    Raises:
        UsageError: If there are too few different pictures to compare.
    """
    density = Detector(DENSITY, batch=compared, device=device)
    rows = np.flatnonzero(~np.isnan(image[:, 0]))
    _check_count(density, Points([image], rows))
    parts = [rows[part] for part in random_parts(len(rows), compared)]
    similarity = np.einsum('nd,nd->n', image, text, dtype=np.float32)
    details = [partial(salient_windows, side=side) for side in window_sides(images.shape[-1])]
    group = _look_alike_groups(images, hashes, parts, device)
    scores = {
        'similarity': standing_out(-similarity.astype(np.float64)),
        'density': standing_out(density.suspicion(image, text).astype(np.float64)),
        'copies': _excess(group, rows),
        'pattern': _recurrence(patterns, images, text, parts, device),
        'detail': np.maximum(*(_recurrence(windows, images, text, parts, device) for windows in details)),
    }
    return PairScores(similarity, scores, group)


def _check_count(density: Detector, points: Points) -> None:
    different = len(distinct(points)[0])
    if different <= density.needed:
        raise UsageError(
            f'each picture is compared with {density.needed} others, and of these {len(points):,} pairs only '
            f'{different:,} have pictures that look different to the model: give more pairs.'
        )


def _look_alike_groups(images: OverlaidPictures, hashes: NDArray[np.int64], parts: Sequence[Rows], device: str) -> Rows:
    """Number of the group of nearly identical pictures that each pair's belongs to, int64 (N,)."""
    _, first, copies = np.unique(hashes, return_index=True, return_inverse=True)
    links = [(np.arange(len(hashes)), first[copies])]  # of equal pictures, also in different parts
    for rows in parts:
        one, other = look_alikes(Points([_vectors(thumbnails, images, rows)]), REACH, device)
        links.append((rows[one], rows[other]))
    one, other = (np.concatenate(ends) for ends in zip(*links, strict=True))
    return join(len(hashes), one, other)


def _excess(group: Rows, rows: Rows) -> Scores:
    """How many times more pairs show the picture of a pair than is usual, times :data:`OF_A_COPY`, (N,)."""
    sizes = np.bincount(group[rows])[group[rows]]
    excess = np.full(len(group), np.nan)
    excess[rows] = OF_A_COPY * (sizes / np.median(sizes) - 1)
    return excess


def _recurrence(
    make: MakeVectors, images: OverlaidPictures, text: np.ndarray, parts: Sequence[Rows], device: str
) -> Scores:
    """:func:`datamodules.rows.recurrence.recurrence` of vectors of the pictures, within each part, (N,)."""
    score = np.full(len(text), np.nan)
    for rows in parts:
        score[rows] = recurrence(Points([_vectors(make, images, rows)]), Points([text], rows), device)
    return score


def _vectors(make: MakeVectors, images: OverlaidPictures, rows: Rows) -> NDArray[np.float16]:
    starts = range(0, len(rows), _PICTURES_AT_ONCE)
    return np.concatenate([make(images(rows[start : start + _PICTURES_AT_ONCE])).half().numpy() for start in starts])
