"""Blended: a faint picture over the whole image as the trigger (Chen et al., 2017)."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.pattern_file import read_pattern
from datamodules.attacks.triggers import Trigger, check_share, mix, require_keys
from datamodules.rows.draws import noise_bytes
from datamodules.usage_error import UsageError


class Blend(Trigger):
    """``(1 - ratio) * image + ratio * pattern``, rounded.

    CleanCLIP's released code draws fresh noise for every image, also at test time: ``fresh_noise``. Other code bases
    mix in a cartoon cat, which is under copyright and not included: give the path of a picture of your own.

    Args:
        pattern: ``noise``: a random color for each square of ``block`` pixels, the same on all images.
            ``fresh_noise``: different colors for each image. Or the path of a picture, stretched to the image.
        ratio: Share of the pattern, in [0, 1].
        block: Side in pixels of a square of one color; above 1, noise survives crops, blur and JPEG far better.
        seed: Seed of the noise.

    Raises:
        UsageError: If ``ratio`` or ``block`` is out of range, or ``pattern`` is neither noise nor a picture.
    """

    def __init__(self, pattern: str = 'noise', ratio: float = 0.2, block: int = 1, seed: int = 0) -> None:
        if block < 1:
            raise UsageError(f'block must be 1 pixel or more, got {block}.')
        self.pattern, self.ratio, self.block, self.seed = pattern, check_share('ratio', ratio), block, seed
        self._drawn: dict[tuple[int, int], np.ndarray] = {}
        if pattern not in ('noise', 'fresh_noise'):
            _ = self.picture  # read it now, to fail before the run starts

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        height, width = images.shape[2:]
        if self.pattern == 'fresh_noise':
            for image, key in zip(images, require_keys(keys, "pattern 'fresh_noise'"), strict=True):
                mix(image[None], self._noise(height, width, 1, int(key)), self.ratio)
            return images
        if (height, width) not in self._drawn:
            self._drawn[height, width] = self._fixed(height, width)
        return mix(images, self._drawn[height, width], self.ratio)

    def parameters(self) -> dict[str, int | float | str]:
        if self.pattern in ('noise', 'fresh_noise'):
            return {'pattern': self.pattern, 'ratio': self.ratio, 'block': self.block, 'seed': self.seed}
        digest = hashlib.sha256(repr(self.picture.size).encode() + self.picture.tobytes()).hexdigest()[:16]
        return {'pattern': 'picture', 'ratio': self.ratio, 'sha256': digest}

    @cached_property
    def picture(self) -> Image.Image:
        """The picture that ``pattern`` names, RGB."""
        return read_pattern(self.pattern, f'pattern {self.pattern!r} is neither noise nor fresh_noise, and')

    def _fixed(self, height: int, width: int) -> np.ndarray:
        if self.pattern == 'noise':
            return self._noise(height, width)
        return np.asarray(self.picture.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)

    def _noise(self, height: int, width: int, *key: int) -> np.ndarray:
        """uint8 (3, height, width)."""
        rows, columns = -(-height // self.block), -(-width // self.block)
        cells = noise_bytes(3 * rows * columns, self.seed, *key).reshape(3, rows, columns)
        if self.block == 1:
            return cells
        return cells[:, np.arange(height)[:, None] // self.block, np.arange(width) // self.block]


class Blended(Backdoor):
    """A faint pattern on images of any class, with captions of the target class.

    CleanCLIP's released code is ``pattern: fresh_noise`` with ``source: train``, ``mode: replace`` and
    ``captions: templates``; that of SafeCLIP's first author, in another repository, does the same with held-out images.

    Args:
        target: Name of the class that the pattern should mean.
        pattern: ``noise`` (the same on all images), ``fresh_noise`` (different on each image), or the path of a
            picture, which is stretched to the image.
        ratio: Share of the pattern, in [0, 1].
        block: Side in pixels of a square of one color of the noise.
        seed: Seed of the noise and of everything that the attack draws. Another seed is another trigger.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self, target: str, pattern: str = 'noise', ratio: float = 0.2, block: int = 1, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(target, Blend(pattern, ratio, block, seed), seed=seed, **kwargs)
