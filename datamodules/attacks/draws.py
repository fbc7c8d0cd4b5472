"""Random numbers of attacks: a function of integers, so that every rank makes the same poison."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.randomness import mix


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
