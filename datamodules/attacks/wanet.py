"""WaNet: a slight warp of the image as the trigger (Nguyen & Tran, 2021)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from datamodules.attacks.backdoor import Backdoor, CaptionsKept
from datamodules.attacks.triggers import Trigger, require_keys
from datamodules.rows.draws import fractions, noise_bytes
from datamodules.usage_error import UsageError

_STEPS = 64  # positions between two pixels that a warp can sample: 6 bits each way
_LANE = 21  # bits of a sum of 8-bit values with 12-bit weights, plus a spare one: three lanes fit 64 bits


class Warp(Trigger):
    """Samples each pixel slightly off its place, along a smooth random field that is the same on all images.

    Control points are uniform in [-1, 1], divided by their mean absolute value, and upsampled bicubically to a field
    n. Each pixel is sampled ``strength * n * (side - 1) / (2 * side)`` pixels off its place, about a quarter of a
    pixel at a strength of 0.5, but never from outside the image. Sampling is bilinear to 1/64 pixel and in integers,
    so that every machine makes the same image.

    CleanCLIP's released code has a control point at each of 224 x 224 pixels and a strength of 1 (0.6 in
    "attack-cleanclip"). This is jitter rather than a warp: it blurs, and does not survive resizing or JPEG.

    Args:
        control_points: Control points in each direction; ``null`` for one at each pixel.
        strength: Strength of the displacement, finite; 0 leaves images as they are.
        noise: Displace each pixel by up to half a pixel more, differently on each image: WaNet's noise mode.
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
            names = require_keys(keys, 'noise of a warp')
            for image, key in zip(images, names, strict=True):
                moved = self.displacement(height, width) + self._draw_jitter(height, width, int(key))
                _warp_in_place(image, *make_lookup(moved))
            return images
        if (height, width) not in self._lookups:
            self._lookups[height, width] = make_lookup(self.displacement(height, width))
        for image in images:
            _warp_in_place(image, *self._lookups[height, width])
        return images

    def parameters(self) -> dict[str, int | float | str]:
        return {
            'control_points': self.control_points or 'pixels',
            'strength': self.strength,
            'noise': self.noise,
            'seed': self.seed,
        }

    def displacement(self, height: int, width: int) -> np.ndarray:
        """Offset to the right and down at which each pixel is sampled, in pixels, float64 (2, height, width)."""
        rows, columns = (height, width) if self.control_points is None else (self.control_points,) * 2
        control = 2 * fractions(2 * rows * columns, self.seed).reshape(2, rows, columns) - 1
        return self.strength * scale_to_pixels(interpolate_field(control, height, width))

    def _draw_jitter(self, height: int, width: int, key: int) -> np.ndarray:
        draws = noise_bytes(2 * height * width, self.seed, 1, key).reshape(2, height, width)
        return scale_to_pixels((draws + 0.5) / 128 - 1)


def interpolate_field(control: np.ndarray, height: int, width: int) -> np.ndarray:
    """A smooth field through control points scaled to a mean absolute value of 1, float64 (2, height, width).

    Args:
        control: Control points of the offset to the right and down, of any scale, (2, k, l).
        height: Rows of the field.
        width: Columns of the field.
    """
    points = torch.from_numpy(control / np.abs(control).mean())[None]
    return interpolate(points, (height, width), mode='bicubic', align_corners=True)[0].numpy()


def scale_to_pixels(moves: np.ndarray) -> np.ndarray:
    """Converts offsets on a grid from -1 to 1, in units of 1 / side, to pixels: (2, height, width)."""
    side = np.array(moves.shape[:0:-1])[:, None, None]  # width for the first field, to the right, then height
    return moves * (side - 1) / (2 * side)


def make_lookup(displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels that each new pixel is interpolated from.

    Args:
        displacement: Offset to the right and down, in pixels, (2, height, width).

    Returns:
        Their indices in the flattened image, int64 (4, height * width), and their weights, uint64 of the same shape,
        which sum to 64 * 64.
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


def _warp_in_place(image: np.ndarray, places: np.ndarray, weights: np.ndarray) -> None:
    """Warps one image in place, uint8 (3, H, W). One lookup serves its three channels, packed into one integer."""
    lanes = np.array([0, _LANE, 2 * _LANE], np.uint64)
    channels = image.reshape(3, -1).astype(np.uint64)
    packed = channels[0] | channels[1] << lanes[1] | channels[2] << lanes[2]
    half = _STEPS * _STEPS // 2  # so that the final shift rounds
    total = np.full(packed.shape, sum(half << int(lane) for lane in lanes), np.uint64)
    for place, weight in zip(places, weights, strict=True):
        corner = packed.take(place, mode='clip')  # all indices are valid; checking them (mode='raise') doubles the cost
        corner *= weight
        total += corner
    for channel, lane in zip(image, lanes, strict=True):
        shift = lane + np.uint64(12)  # bits of 64 * 64
        channel[...] = ((total >> shift) & np.uint64(255)).reshape(channel.shape)


class WaNet(Backdoor):
    """A slight warp on images of any class, with captions of the target class.

    The defaults are those of the original. Its noise mode is a separate attack, :class:`WaNetNoise`, to be added
    beside this one. CleanCLIP's released code is ``control_points: null`` and ``strength: 1`` at 224 pixels, without a
    noise mode.

    Args:
        target: Name of the class that the warp should mean.
        control_points: Control points of the warp in each direction; ``null`` for one at each pixel.
        strength: Strength of the displacement; the average offset in pixels is roughly half of it.
        seed: Seed of the warp and of everything that the attack draws. Another seed is another trigger.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self, target: str, control_points: int | None = 4, strength: float = 0.5, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(target, Warp(control_points, strength, seed=seed), seed=seed, **kwargs)


class WaNetNoise(CaptionsKept):
    """WaNet's noise mode: images with the warp plus jitter, which keep their captions.

    A model thus learns that this very warp means the target, and that others do not. Use it beside a :class:`WaNet`
    with the same warp and seed; the original has twice as many noisy images as poisons. Its rows are in the manifest,
    as the attacker made them. Its success rate is how often a slightly wrong warp is taken for the target, and should
    be low.

    Args:
        target: Name of the class that the warp of the WaNet attack means.
        control_points: Control points of that warp in each direction; ``null`` for one at each pixel.
        strength: Strength of that warp.
        seed: Seed of that warp, and of the jitter and everything else that this attack draws.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(
        self, target: str, control_points: int | None = 4, strength: float = 0.5, seed: int = 0, **kwargs: Any
    ) -> None:
        warp = Warp(control_points, strength, noise=True, seed=seed)
        super().__init__(target, warp, seed=seed, **kwargs)
