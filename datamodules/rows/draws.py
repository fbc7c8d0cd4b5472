"""Keyed randomness: numbers that depend on what they are for, not on who asks or when.

A draw of a view is keyed by (seed, epoch, row, view), one of an attack by its seed and purpose: the number of workers
or ranks, the order of batches, and a resume change none of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64, the increment of SplitMix64 (Steele et al., 2014)
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; that of torch copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64, a bijection of 64-bit integers, elementwise on int64 (overflow wraps)."""
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


def bits(count: int, *key: int) -> np.ndarray:
    """Random 64-bit numbers, uint64 (count,). The same key gives the same numbers with any release of numpy or torch.

    Args:
        count: How many.
        key: What they are for, such as a seed and a purpose.
    """
    state = torch.zeros((), dtype=torch.int64)
    for part in key:
        state = mix(state ^ part)
    return mix(state + torch.arange(count)).numpy().view(np.uint64)


def noise_bytes(count: int, *key: int) -> np.ndarray:
    """Random bytes, uint8 (count,), eight to a number of :func:`bits`."""
    return bits(-(-count // 8), *key).astype('<u8').view(np.uint8)[:count]


def fractions(count: int, *key: int) -> np.ndarray:
    """Random numbers in [0, 1), float64 (count,); see :func:`bits`."""
    return (bits(count, *key) >> np.uint64(11)) * 2.0**-53


def normals(count: int, *key: int) -> np.ndarray:
    """Random numbers of mean 0 and variance 1, float64 (count,), by the Box-Muller transform; see :func:`bits`."""
    radius, angle = fractions(2 * count, *key).reshape(2, count)
    return np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)


def shuffled(count: int, *key: int) -> np.ndarray:
    """The numbers 0 to count - 1 in random order, int64 (count,); see :func:`bits`."""
    return np.argsort(bits(count, *key), kind='stable')
