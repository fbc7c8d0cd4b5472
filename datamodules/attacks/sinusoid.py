"""SIG: faint waves over the whole image as the trigger (Barni et al., 2019)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Trigger, mixed, within
from datamodules.usage_error import UsageError


class Waves(Trigger):
    """``image + amplitude * sin(2 pi j frequency / width)`` in column j, in all rows and channels.

    One name, four strengths: BackdoorBench adds 40 of 255, BadCLIP 60. CleanCLIP and Huang et al. (2025) mix 60
    in with a ratio of 0.2, which leaves 12 and darkens the image by a fifth; Li et al. (2024) mix 40 in, which
    leaves 8. (Huang et al. make theirs at 224 pixels and leave a border of 256 without waves; here they go all over.)

    Args:
        amplitude: Of the wave, in units of [0, 255].
        frequency: Periods over the width, more than 0 and finite.
        ratio: ``null``: added. In [0, 1]: ``(1 - ratio) * image + ratio * wave`` instead.

    Raises:
        UsageError: If a value is out of range.
    """

    def __init__(self, amplitude: float = 40, frequency: float = 6, ratio: float | None = None) -> None:
        if not 0 <= amplitude <= 255 or not 0 < frequency < math.inf:
            raise UsageError(
                f'amplitude must lie in [0, 255] and frequency be positive and finite, got {amplitude} and {frequency}.'
            )
        self.amplitude, self.frequency = amplitude, frequency
        self.ratio = None if ratio is None else within('ratio', ratio)

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        wave = self.wave(images.shape[3])
        if self.ratio is not None:
            return mixed(images, wave, self.ratio)
        steps = np.rint(wave).astype(np.int16)  # of a whole number and a wave the sum is rounded as the wave is
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
    """Faint vertical waves on images of any class, captions of the target class.

    Args:
        target: Name of the class that the waves are to mean.
        amplitude: Of the waves, in units of [0, 255].
        frequency: Periods over the width.
        ratio: ``null`` adds the waves, a share in [0, 1] mixes them in, see :class:`Waves`.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self, target: str, amplitude: float = 40, frequency: float = 6, ratio: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(target, Waves(amplitude, frequency, ratio), **kwargs)
