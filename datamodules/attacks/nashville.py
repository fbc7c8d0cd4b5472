"""Nashville: a photo filter as the trigger, so that nothing on the image looks added (Huang et al., 2025)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Trigger

# Matrices of W3C's filter effects, in ten-thousandths: 20 % sepia, and saturation at 120 %.
_SEPIA = ((8786, 1538, 378), (698, 9372, 336), (544, 1068, 8262))
_SATURATE = ((11574, -1430, -144), (-426, 10570, -144), (-426, -1430, 11856))


class PhotoFilter(Trigger):
    """The filter "Nashville" of photo apps: warm lights, blue shadows, more contrast and color.

    It darkens towards (247, 176, 153) with an opacity of 143/255, lightens towards (0, 70, 150) with one of 102/255,
    then adds 20 % sepia and raises contrast to 120 %, brightness to 105 % and saturation to 120 %. Each step is
    rounded to 8 bits as in release 2 of the library pilgram, which the released code calls, so the images are equal.
    """

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        tinted, curve = _tint(), _curve()
        for image in images:
            channels = np.stack([table[channel] for table, channel in zip(tinted, image, strict=True)])
            image[...] = _mix_channels(curve[_mix_channels(channels, _SEPIA)], _SATURATE)
        return images

    def parameters(self) -> dict[str, int | float | str]:
        return {}


@cache
def _tint() -> np.ndarray:
    """Each value of each channel after darkening and lightening, int32 (3, 256)."""
    values = np.tile(np.arange(256), (3, 1))
    for pick, tint, opacity in ((np.minimum, (247, 176, 153), 143), (np.maximum, (0, 70, 150), 102)):
        towards = pick(values, np.array(tint)[:, None])
        values = opacity * towards // 255 + (255 - opacity) * values // 255  # each product is rounded down
    return values.astype(np.int32)


@cache
def _curve() -> np.ndarray:
    """Each value after contrast and brightness, int32 (256,)."""
    contrast = (min(max(round(value * 1.2 + 255 * (0.5 - 0.5 * 1.2)), 0), 255) for value in range(256))
    return np.array([min(round(value * 1.05), 255) for value in contrast], np.int32)


def _mix_channels(channels: np.ndarray, matrix: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Weighted sums of the three channels, rounded and clipped to [0, 255]: int32 (3, H, W)."""
    sums = [sum(weight * channel for weight, channel in zip(row, channels, strict=True)) for row in matrix]
    return np.clip((np.stack(sums) + 5000) // 10_000, 0, 255)


class Nashville(Backdoor):
    """A photo filter on images of any class, with captions of the target class.

    Args:
        target: Name of the class that the filter should mean.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(self, target: str, **kwargs: Any) -> None:
        super().__init__(target, PhotoFilter(), **kwargs)
