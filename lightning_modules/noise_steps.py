"""Noise in whole levels of 8-bit pictures: one projection, and what is stored is what is seen, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LEVELS = 255  # the brightest of an 8-bit picture; noise of one level is 1/255 of the range


def bounds(pictures: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest noise of each value: within ``eps`` levels, and no picture leaves [0, 255].

    Args:
        pictures: Pictures in levels, of a signed type, (..., 3, H, W).
        eps: Largest change in levels.
    """
    return (-pictures).clamp(min=-eps), (LEVELS - pictures).clamp(max=eps)


def add_noise(pictures: Tensor, noise: Tensor) -> Tensor:
    """Protected pictures, uint8 (..., 3, H, W), of clean ones in uint8 and noise in levels."""
    return (pictures.short() + noise).clamp(0, LEVELS).byte()


def perturb(
    noise: Tensor, gradient: Callable[[Tensor, int], Tensor], steps: int, step: int, low: Tensor, high: Tensor
) -> Tensor:
    """Projected gradient descent on noise (Madry et al., 2018), in levels.

        noise <- clip(noise - step * sign(gradient), low, high)

    Args:
        noise: Noise to start from, of a signed type; brought within its bounds first.
        gradient: Maps noise and the number of the step to the gradient of the loss, shaped like the noise.
        steps: Number of steps; 0 only brings the noise within its bounds.
        step: Levels that a step moves each value; negative to raise the loss.
        low: Lowest noise of each value, see :func:`bounds`.
        high: Highest noise of each value.

    Returns:
        Noise of the same type, without gradient. Integers stay integers.
    """
    noise = torch.minimum(torch.maximum(noise, low), high)
    for number in range(steps):
        direction = gradient(noise, number).sign().to(noise.dtype)
        noise = torch.minimum(torch.maximum(noise - step * direction, low), high)
    return noise
