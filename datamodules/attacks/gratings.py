"""Triggers of slanted waves: regular, so that few pictures teach them, and too many to guess."""

from __future__ import annotations

import numpy as np

from datamodules.attacks.sinusoid import Waves
from datamodules.attacks.triggers import Placed, Position


def slanted_wave(side: int, periods: float, angle: float) -> np.ndarray:
    """A plane sine wave on a square, float64 (side, side), in [-1, 1].

    Args:
        side: Side of the square in pixels.
        periods: Periods over the side, along the direction of the wave.
        angle: Direction of the wave in degrees: 0 to the right, 90 downwards.
    """
    row, column = np.indices((side, side)) + 0.5
    direction = np.deg2rad(angle)
    return np.sin(2 * np.pi * periods * (column * np.cos(direction) + row * np.sin(direction)) / side)


class SlantedWaves(Waves):
    """Faint waves in any direction over the whole of square images.

    Args:
        amplitude: Amplitude of the wave, in units of [0, 255].
        frequency: Periods over the width, positive and finite.
        angle: Direction in degrees, see :func:`slanted_wave`.
    """

    def __init__(self, amplitude: float = 40, frequency: float = 6, angle: float = 45) -> None:
        super().__init__(amplitude, frequency)
        self.angle = angle

    def wave(self, width: int) -> np.ndarray:
        return self.amplitude * slanted_wave(width, self.frequency, self.angle)

    def parameters(self) -> dict[str, int | float | str]:
        return {**super().parameters(), 'angle': self.angle}


class Grating(Placed):
    """A square of black and white stripes in any direction.

    Args:
        size: Side in pixels of the stored image.
        periods: Periods over the side.
        angle: Direction in degrees, see :func:`slanted_wave`.
        position: Where the square goes, as for :class:`datamodules.attacks.triggers.Patch`.
        margin: Pixels between the square and the border.
        seed: Seed of random places.
    """

    def __init__(
        self, size: int, periods: float, angle: float, position: Position, margin: int = 0, seed: int = 0
    ) -> None:
        super().__init__(position, margin, seed)
        self.size, self.periods, self.angle = size, periods, angle

    def square(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        is_white = slanted_wave(self.size, self.periods, self.angle) >= 0
        return np.broadcast_to(is_white * np.uint8(255), (3, self.size, self.size))

    def parameters(self) -> dict[str, int | float | str]:
        shape = {'size': self.size, 'periods': self.periods, 'angle': self.angle}
        return {**shape, 'position': self.position, 'margin': self.margin, 'seed': self.seed}
