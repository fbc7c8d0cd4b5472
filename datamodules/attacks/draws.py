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


def shuffled(count: int, *key: int) -> np.ndarray:
    """The numbers 0 to count - 1 in random order, int64 (count,); see :func:`bits`."""
    return np.argsort(bits(count, *key), kind='stable')
