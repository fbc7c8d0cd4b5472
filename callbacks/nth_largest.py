"""The n-th largest of many values, found digit by digit, so that no copy of them is sorted or made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.rows.row_sets import blocks

DIGIT = 16  # bits that are compared at a time
BLOCK = 1 << 20  # values at a time, more than a tally has entries


def nth_largest(values: NDArray[np.floating], n: int) -> float:
    """The ``n``-th largest value, exactly.

    Args:
        values: float32 or float64, any order, (N,); NaN is left out.
        n: From 1 to the number of values that are not NaN.
    """
    kind, found = np.dtype(f'u{values.itemsize}').type, 0
    for shift in range(8 * values.itemsize - DIGIT, -1, -DIGIT):
        tally = np.zeros(1 << DIGIT, np.int64)
        for block in blocks(len(values), BLOCK):
            keys = _flip(values[block][~np.isnan(values[block])].view(kind)) >> kind(shift)
            keys = keys[keys >> kind(DIGIT) == kind(found)]  # those that begin with the digits found so far
            tally += np.bincount((keys & kind((1 << DIGIT) - 1)).astype(np.intp), minlength=1 << DIGIT)
        reached = tally.cumsum()
        digit = int(np.searchsorted(reached, n))
        n -= int(reached[digit] - tally[digit])
        found = found << DIGIT | digit
    return float(_flip(np.array([found], kind)).view(values.dtype)[0])


def _flip(bits: np.ndarray) -> np.ndarray:
    """Maps the bits of floating-point numbers to integers in descending order of the numbers, and back."""
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & top, bits, bits ^ (top - bits.dtype.type(1)))
