"""SIG: faint waves over the whole image as the trigger (Barni et al., 2019)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Trigger, check_share, mix
from datamodules.usage_error import UsageError


class Waves(Trigger):
    """``image + amplitude * sin(2 pi j frequency / width)`` in column j, in all rows and channels.

    Four strengths go by this name. BackdoorBench adds 40 of 255, and BadCLIP 60. CleanCLIP and Huang et al. (2025)
    mix in 60 with a ratio of 0.2, which leaves 12 and darkens the image by a fifth. Li et al. (2024) mix in 40, which
    leaves 8. (Huang et al. make waves of 224 pixels and leave the border of 256 without; here they cover the image.)

    Args:
        amplitude: Amplitude of the wave, in units of [0, 255].
        frequency: Periods over the width, positive and finite.
        ratio: ``null`` adds the wave. A share in [0, 1] mixes it in: ``(1 - ratio) * image + ratio * wave``.

    Raises:
        UsageError: If a value is out of range.
    """

    def __init__(self, amplitude: float = 40, frequency: float = 6, ratio: float | None = None) -> None:
        if not 0 <= amplitude <= 255 or not 0 < frequency < math.inf:
            raise UsageError(
                f'amplitude must lie in [0, 255] and frequency be positive and finite, got {amplitude} and {frequency}.'
            )
        self.amplitude, self.frequency = amplitude, frequency
        self.ratio = None if ratio is None else check_share('ratio', ratio)

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        wave = self.wave(images.shape[3])
        if self.ratio is not None:
            return mix(images, wave, self.ratio)
        steps = np.rint(wave).astype(np.int16)  # pixels are whole, so rounding the wave rounds the sum
        for image in images:
            values = image.astype(np.int16)
            values += steps
            image[...] = np.clip(values, 0, 255, out=values)
        return images

    def wave(self, width: int) -> np.ndarray:
        """The wave in units of [0, 255], float64 (width,)."""
        return self.amplitude * np.sin(2 * np.pi * self.frequency * np.arange(width) / width)

    def parameters(self) -> dict[str, int | float | str]:
        mixing: dict[str, int | float | str] = {} if self.ratio is None else {'ratio': self.ratio}
        return {'amplitude': self.amplitude, 'frequency': self.frequency, **mixing}


class Sinusoid(Backdoor):
    """Faint vertical waves on images of any class, with captions of the target class.

    Args:
        target: Name of the class that the waves should mean.
        amplitude: Amplitude of the waves, in units of [0, 255].
        frequency: Periods over the width, positive and finite.
        ratio: ``null`` adds the waves. A share in [0, 1] mixes them in: ``(1 - ratio) * image + ratio * wave``.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self, target: str, amplitude: float = 40, frequency: float = 6, ratio: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(target, Waves(amplitude, frequency, ratio), **kwargs)
