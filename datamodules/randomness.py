"""Random numbers that depend on what they are for, not on who asks or when.

A draw is keyed by (seed, epoch, row, view): the number of workers or ranks, the order of batches and a
resume change none of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64, the increment of SplitMix64 (Steele et al., 2014)
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; that of torch copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64, a bijection of 64-bit integers, elementwise on int64 (overflow wraps)."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def uniform(seed: int, epoch: int, row: Tensor, view: int, count: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 of shape (B, count), the same on every device.

    Args:
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        row: Row of each pair, int64 (B,).
        view: Which of a pair's views, counted from 0.
        count: Numbers for each row.
    """
    key = torch.zeros((), dtype=torch.int64, device=row.device)
    for part in (seed, epoch, view):
        key = mix(key ^ part)
    place = torch.arange(count, device=row.device)
    bits = mix(mix(key ^ row)[:, None] + place)
    return _shift(bits, 40).to(torch.float32) / (1 << 24)
