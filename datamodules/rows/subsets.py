"""Random subsets of rows: drawn by a seed, in ascending order, the larger subset containing the smaller."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.rows.draws import mix, permutation
from datamodules.usage_error import UsageError

_PARTS_KEY = 0x6261_7463  # key of the draw of parts


def random_rows(rows: int, count: int, seed: int) -> np.ndarray:
    """Draws rows without replacement, ascending, int64 (count,).

    Args:
        rows: Number of rows to draw from.
        count: Number of rows to draw.
        seed: Seed of the draw.

    Raises:
        UsageError: If ``count`` is not between 1 and ``rows``.

    Example:
        >>> random_rows(10, 3, seed=0).tolist()
        [1, 5, 7]
        >>> random_rows(10, 5, seed=0).tolist()  # contains the smaller subset
        [1, 2, 4, 5, 7]
    """
    _check_count(rows, count)
    return np.sort(permutation(rows, seed)[:count])


def balanced_rows(label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws rows without replacement, equally many of each class as far as it has them, ascending, int64 (count,).

    Args:
        label: Class of each row, int (N,).
        count: Number of rows to draw.
        seed: Seed of the draw.

    Raises:
        UsageError: If ``count`` is not between 1 and N.

    Example:
        >>> label = np.array([0] * 8 + [1] * 2)
        >>> np.bincount(label[balanced_rows(label, 4, seed=0)]).tolist()
        [2, 2]
    """
    _check_count(len(label), count)
    order = permutation(len(label), seed)
    by_class = order[np.argsort(label[order], kind='stable')]  # random within a class
    sizes = np.bincount(label)
    rank = np.arange(len(label)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of a row within its class
    return np.sort(by_class[np.argsort(rank, kind='stable')[:count]])


def random_rows_per_group(sizes: np.ndarray, count: int, seed: int, start: int = 0) -> np.ndarray:
    """Draws rows without replacement from each group, or takes all of a smaller group, ascending, int64 (n,).

    The rows of a group are consecutive. The draw from a group depends only on the seed, the group's number and size.

    Args:
        sizes: Number of rows in each group, int (G,).
        count: Number of rows to draw from each group.
        seed: Seed of the draw.
        start: Number of the first group.

    Example:
        >>> random_rows_per_group(np.array([1, 3]), count=1, seed=0).tolist()  # row 0, then one of rows 1 to 3
        [0, 3]
    """
    group = np.repeat(np.arange(len(sizes)), sizes)
    position = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of a row within its group
    key = mix(mix(torch.tensor(seed)) ^ torch.from_numpy(group + start))
    order = np.lexsort((mix(key + torch.from_numpy(position)).numpy(), group))  # random within a group
    return np.sort(order[position < count])


def random_parts(count: int, least: int | None) -> list[np.ndarray]:
    """Splits the numbers 0 to count - 1 at random into parts of at least ``least``, each ascending, int64.

    Args:
        count: How many numbers.
        least: Smallest size of a part; ``None`` for a single one.
    """
    parts = 1 if least is None else max(1, count // least)
    order = permutation(count, _PARTS_KEY) if parts > 1 else np.arange(count)
    return [np.sort(part) for part in np.array_split(order, parts)]


def _check_count(rows: int, count: int) -> None:
    if not 0 < count <= rows:
        raise UsageError(f'data.subset={count} must be from 1 to {rows:,}, the number of pairs.')
