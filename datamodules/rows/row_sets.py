"""Sets of rows, as masks of a byte a row and as row numbers, in memory that is small beside that of the columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1 << 16  # rows at a time: what is computed from a block fits into the CPU's cache


def blocks(rows: int, size: int = BLOCK) -> Iterator[slice]:
    """Consecutive parts of a column of some length, so that nothing of its length is computed on the way."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def mark_rows(rows: np.ndarray | list[int], count: int) -> np.ndarray:
    """Mask of some of the rows 0 to ``count`` - 1, bool (count,)."""
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask


def row_numbers(mask: np.ndarray) -> np.ndarray:
    """Rows that a mask marks, ascending: int32 as far as that can hold them, half of what ``np.flatnonzero`` takes."""
    rows = np.empty(np.count_nonzero(mask), np.int32 if len(mask) <= np.iinfo(np.int32).max else np.int64)
    end = 0
    for block in blocks(len(mask)):
        found = np.flatnonzero(mask[block])
        rows[end : end + len(found)] = found + block.start
        end += len(found)
    return rows
