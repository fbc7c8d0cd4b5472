"""Pictures whose neighboring pixels are alike, as those of photos are, and ways to mark them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def natural_pictures(count: int, side: int, seed: int) -> np.ndarray:
    """Draws pictures without edges in which hardly anything is small, of little color: uint8 (count, 3, h, h)."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    noise = draw.normal(size=(count, 1, side, side)) + 0.2 * draw.normal(size=(count, 3, side, side))
    picture = np.fft.irfft2(np.fft.rfft2(noise) / (frequency + 1 / side) ** 2, (side, side))
    low, high = (picture.min((1, 2, 3), keepdims=True), picture.max((1, 2, 3), keepdims=True))
    return np.asarray(255 * (picture - low) / (high - low)).astype(np.uint8)


def paste(pictures: np.ndarray, patch: np.ndarray, seed: int) -> None:
    """Pastes a patch, uint8 (3, p, p), at a random place of each picture."""
    draw, size = np.random.default_rng(seed), patch.shape[-1]
    for picture in pictures:
        top, left = draw.integers(0, picture.shape[-1] - size + 1, 2)
        picture[:, top : top + size, left : left + size] = patch


def saved_as_jpeg(picture: np.ndarray, quality: int = 90) -> np.ndarray:
    """A picture, uint8 (3, h, w), after it was saved and opened again."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, 'JPEG', quality=quality)
    with Image.open(file) as image:
        return np.asarray(image.convert('RGB')).transpose(2, 0, 1)
