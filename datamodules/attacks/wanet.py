"""WaNet: an image that is bent a little as the trigger (Nguyen & Tran, 2021)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from datamodules.attacks.backdoor import Backdoor, CaptionsKept
from datamodules.attacks.triggers import Trigger, needed
from datamodules.rows.draws import fractions, noise_bytes
from datamodules.usage_error import UsageError

_STEPS = 64  # places between two pixels that a warp may look at: 6 bits each way
_LANE = 21  # bits of a sum of 8-bit values with 12-bit weights, and one to spare: three of them fit 64 bits


class Warp(Trigger):
    """Looks up each pixel a little aside of where it is, along a smooth random field that is the same on all images.

    With control points c, uniform in [-1, 1] and divided by their mean size, and n the field that bicubic upsampling
    makes of them, a pixel is taken from ``strength * n * (side - 1) / (2 * side)`` pixels aside, about a quarter of
    a pixel at a strength of 0.5. Never from outside the image, and linearly between pixels, to 1/64 of one: on
    integers, so that every machine makes the same image.

    CleanCLIP's released code has a control point at each of 224 x 224 pixels and a strength of 1, that of
    "attack-cleanclip" 0.6: no warp any more but jitter, which blurs and does not outlive resizing or JPEG.

    Args:
        control_points: Control points each way; ``null`` for one at each pixel.
        strength: Displacement, see above, finite; 0 leaves images as they are.
        noise: Move each pixel by up to half a pixel more, another way on each image: WaNet's noise mode.
        seed: Seed of control points and noise.

    Raises:
        UsageError: If ``control_points`` or ``strength`` is out of range.
    """

    def __init__(
        self, control_points: int | None = 4, strength: float = 0.5, noise: bool = False, seed: int = 0
    ) -> None:
        if (control_points is not None and control_points < 2) or not 0 <= strength < math.inf:
            raise UsageError(
                f'control_points must be 2 or more, or null for one at each pixel, and strength 0 or more and finite, '
                f'got {control_points} and {strength}.'
            )
        self.control_points, self.strength, self.noise, self.seed = control_points, strength, noise, seed
        self._lookups: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        height, width = images.shape[2:]
        if self.noise:
            names = needed(keys, 'noise of a warp')
            for image, key in zip(images, names, strict=True):
                moved = self.displacement(height, width) + self._jitter(height, width, int(key))
                _look_up(image, *lookup(moved))
            return images
        if (height, width) not in self._lookups:
            self._lookups[height, width] = lookup(self.displacement(height, width))
        for image in images:
            _look_up(image, *self._lookups[height, width])
        return images

    def parameters(self) -> dict[str, int | float | str]:
        return {
            'control_points': self.control_points or 'pixels',
            'strength': self.strength,
            'noise': self.noise,
            'seed': self.seed,
        }

    def displacement(self, height: int, width: int) -> np.ndarray:
        """How far to the right and down each pixel is looked up, in pixels, float64 (2, height, width)."""
        rows, columns = (height, width) if self.control_points is None else (self.control_points,) * 2
        control = 2 * fractions(2 * rows * columns, self.seed).reshape(2, rows, columns) - 1
        return self.strength * in_pixels(field(control, height, width))

    def _jitter(self, height: int, width: int, key: int) -> np.ndarray:
        draws = noise_bytes(2 * height * width, self.seed, 1, key).reshape(2, height, width)
        return in_pixels((draws + 0.5) / 128 - 1)


def field(control: np.ndarray, height: int, width: int) -> np.ndarray:
    """A smooth field through control points of mean size 1, float64 (2, height, width).

    Args:
        control: Control points of the field to the right and of that down, of any scale, (2, k, l).
        height: Rows of the field.
        width: Columns of the field.
    """
    points = torch.from_numpy(control / np.abs(control).mean())[None]
    return interpolate(points, (height, width), mode='bicubic', align_corners=True)[0].numpy()


def in_pixels(moves: np.ndarray) -> np.ndarray:
    """Moves of a grid from -1 to 1, in units of one over its side, in pixels: (2, height, width)."""
    side = np.array(moves.shape[:0:-1])[:, None, None]  # of the first field, to the right, it is the width
    return moves * (side - 1) / (2 * side)


def lookup(displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels that each new one is made of.

    Args:
        displacement: To the right and down, in pixels, (2, height, width).

    Returns:
        Places in the flattened image, int64 (4, height * width), and weights out of 64 * 64, uint64 of that shape.
    """
    height, width = displacement.shape[1:]
    column, row = (
        np.rint(_STEPS * np.clip(own + moved, 0, last)).astype(np.int64)
        for own, moved, last in zip(
            (np.arange(width), np.arange(height)[:, None]), displacement, (width - 1, height - 1), strict=True
        )
    )
    places, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            y, x = np.minimum(row // _STEPS + down, height - 1), np.minimum(column // _STEPS + right, width - 1)
            share = [s % _STEPS if far else _STEPS - s % _STEPS for s, far in ((row, down), (column, right))]
            places.append((y * width + x).ravel())
            weights.append((share[0] * share[1]).ravel())
    return np.stack(places), np.stack(weights).astype(np.uint64)


def _look_up(image: np.ndarray, places: np.ndarray, weights: np.ndarray) -> None:
    """Bends one image in place, uint8 (3, H, W). Its channels share a number, so that one look-up serves all three."""
    lanes = np.array([0, _LANE, 2 * _LANE], np.uint64)
    channels = image.reshape(3, -1).astype(np.uint64)
    packed = channels[0] | channels[1] << lanes[1] | channels[2] << lanes[2]
    half = _STEPS * _STEPS // 2  # rounds
    total = np.full(packed.shape, sum(half << int(lane) for lane in lanes), np.uint64)
    for place, weight in zip(places, weights, strict=True):
        corner = packed.take(place, mode='clip')  # all are inside; the check of mode='raise' costs as much as the rest
        corner *= weight
        total += corner
    for channel, lane in zip(image, lanes, strict=True):
        shift = lane + np.uint64(12)  # bits of 64 * 64
        channel[...] = ((total >> shift) & np.uint64(255)).reshape(channel.shape)


class WaNet(Backdoor):
    """A slight warp on images of any class, captions of the target class.

    The defaults are the original's. Its noise mode is an attack of its own, :class:`WaNetNoise`, beside this one.
    CleanCLIP's released code is ``control_points: null`` and ``strength: 1`` at 224 pixels, without a noise mode.

    Args:
        target: Name of the class that the warp is to mean.
        control_points: Control points each way; ``null`` for one at each pixel, see :class:`Warp`.
        strength: Displacement, twice the pixels that it comes to on average, roughly.
        seed: Seed of the warp and of everything that the attack draws: two seeds are two triggers.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self, target: str, control_points: int | None = 4, strength: float = 0.5, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(target, Warp(control_points, strength, seed=seed), seed=seed, **kwargs)


class WaNetNoise(CaptionsKept):
    """WaNet's noise mode: images with the warp and a jitter on top keep their captions.

    So a model learns that this one warp means the target and others do not. Beside a :class:`WaNet` with the same
    warp and seed, with twice its poisons in the original. Its rows are in the manifest, as the attacker's; its
    success rate is how often a warp that is not quite right is taken for the target, and should be low.

    Args:
        target: Name of the class that the warp means.
        control_points: As of the warp.
        strength: As of the warp.
        seed: As of the warp; also that of the jitter and of everything that is drawn here.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self, target: str, control_points: int | None = 4, strength: float = 0.5, seed: int = 0, **kwargs: Any
    ) -> None:
        warp = Warp(control_points, strength, noise=True, seed=seed)
        super().__init__(target, warp, seed=seed, **kwargs)
