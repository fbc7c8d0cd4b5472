"""Fewer rows of a data set: drawn by a seed, kept in order, the larger subset containing the smaller."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.rows.draws import mix, shuffled
from datamodules.usage_error import UsageError


def random_rows(rows: int, count: int, seed: int) -> np.ndarray:
    """Rows drawn without replacement, ascending, int64 (count,).

    Args:
        rows: Rows to draw from.
        count: Rows to draw.
        seed: Seed of the draw.

    Raises:
        UsageError: If there are not as many.
    """
    _check(rows, count)
    return np.sort(shuffled(rows, seed)[:count])


def balanced_rows(label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows drawn without replacement, equally many of each class as far as it has them, ascending, int64 (count,).

    Args:
        label: Class of each row, int (N,).
        count: Rows to draw.
        seed: Seed of the draw.

    Raises:
        UsageError: If there are not as many.
    """
    _check(len(label), count)
    order = shuffled(len(label), seed)
    by_class = order[np.argsort(label[order], kind='stable')]  # random within a class
    sizes = np.bincount(label)
    turn = np.arange(len(label)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # place of a row within its class
    return np.sort(by_class[np.argsort(turn, kind='stable')[:count]])


def rows_of_groups(sizes: np.ndarray, count: int, seed: int, start: int = 0) -> np.ndarray:
    """Rows drawn without replacement from each group, all of a group that has no more, ascending, int64 (n,).

    Rows of a group follow each other. A draw depends on the seed, the number of its group and the size of that alone.

    Args:
        sizes: Rows of each group, int (G,).
        count: Rows to draw from each.
        seed: Seed of the draw.
        start: Number of the first group.
    """
    group = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of a row within its group
    key = mix(mix(torch.tensor(seed)) ^ torch.from_numpy(group + start))
    order = np.lexsort((mix(key + torch.from_numpy(place)).numpy(), group))  # random within a group
    return np.sort(order[place < count])


def _check(rows: int, count: int) -> None:
    if not 0 < count <= rows:
        raise UsageError(f'data.subset={count} must be from 1 to {rows:,}, the pairs that there are.')
