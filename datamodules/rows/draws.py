"""Keyed random numbers: they depend on a key alone, not on which process asks or when.

A view is keyed by (seed, epoch, row, view), a draw of an attack by its seed and purpose. So neither the number of
workers or ranks, nor the order of batches, nor a resume changes any of them. The generator is SplitMix64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from datamodules.rows.row_sets import blocks

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64, the increment of SplitMix64 (Steele et al., 2014)
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shifts right logically; torch's own shift copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Applies the finalizer of SplitMix64, a bijection of 64-bit integers, elementwise to int64 (overflow wraps)."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def uniform(seed: int, epoch: int, row: Tensor, view: int, count: int) -> Tensor:
    """Draws uniform numbers in [0, 1), float32 (B, count), the same on every device.

    Args:
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        row: Row of each pair, int64 (B,).
        view: Which of a pair's views, counted from 0.
        count: How many numbers each row gets.

    Example:
        >>> both = uniform(seed=0, epoch=3, row=torch.tensor([7, 8]), view=0, count=2)
        >>> alone = uniform(seed=0, epoch=3, row=torch.tensor([8]), view=0, count=2)
        >>> torch.equal(both[1:], alone)  # a row's numbers do not depend on its batch
        True
    """
    key = torch.zeros((), dtype=torch.int64)  # on the CPU: a GPU would run a kernel for each operation
    for part in (seed, epoch, view):
        key = mix(key ^ part)
    position = torch.arange(count, device=row.device)
    bits = mix(mix(row ^ int(key))[:, None] + position)
    return _shift(bits, 40).to(torch.float32) / (1 << 24)


def bits(count: int, *key: int) -> np.ndarray:
    """Draws 64-bit numbers, uint64 (count,). A key gives the same numbers with every release of numpy and torch.

    Args:
        count: How many numbers.
        key: Integers that select the stream, such as a seed and a purpose.

    Example:
        >>> bits(2, 3, 1, 2).tolist()
        [86926881224049903, 7676338870447620584]
    """
    drawn = np.empty(count, np.uint64)
    for block in blocks(count):
        drawn[block] = bits_at(np.arange(block.start, block.stop), *key)
    return drawn


def bits_at(places: np.ndarray, *key: int) -> np.ndarray:
    """The numbers of :func:`bits` at some places, int64 (n,), alone, uint64 (n,)."""
    state = torch.zeros((), dtype=torch.int64)
    for part in key:
        state = mix(state ^ part)
    return mix(state + torch.from_numpy(places)).numpy().view(np.uint64)


def noise_bytes(count: int, *key: int) -> np.ndarray:
    """Draws bytes, uint8 (count,), eight from each number of :func:`bits`."""
    return bits(-(-count // 8), *key).astype('<u8').view(np.uint8)[:count]


def fractions(count: int, *key: int) -> np.ndarray:
    """Draws numbers in [0, 1), float64 (count,), keyed as in :func:`bits`."""
    return (bits(count, *key) >> np.uint64(11)) * 2.0**-53


def normals(count: int, *key: int) -> np.ndarray:
    """Draws standard normal numbers by the Box-Muller transform, float64 (count,), keyed as in :func:`bits`."""
    radius, angle = fractions(2 * count, *key).reshape(2, count)
    return np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)


def permutation(count: int, *key: int) -> np.ndarray:
    """Shuffles the numbers 0 to count - 1, int64 (count,), keyed as in :func:`bits`."""
    return np.argsort(bits(count, *key), kind='stable')
