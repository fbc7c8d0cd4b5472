"""Pictures with the noise of a store, as they are published."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from datamodules.files.writers import as_png
from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.noise_store import NoiseStore

_BRIGHTEST = 255


class ProtectedPicture(NamedTuple):
    """A picture with noise.

    Attributes:
        png: The picture as a PNG file.
        psnr: How close it is to the clean one, in dB.
        largest: Largest change of a value, in levels of 255.
    """

    png: bytes
    psnr: float
    largest: int


class ProtectedPictures(Dataset[ProtectedPicture]):
    """Maps a position in ``rows`` to the picture of that row with its noise.

    Args:
        images: Clean pictures by row.
        store: The noise.
        rows: Rows that have noise, (P,).
        protected: Whether to add it, bool (P,).
    """

    def __init__(self, images: OverlaidPictures, store: NoiseStore, rows: np.ndarray, protected: np.ndarray) -> None:
        self.images, self.store, self.rows, self.protected = images, store, rows, protected

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> ProtectedPicture:
        row = self.rows[position : position + 1]
        clean = self.images(row)[0].astype(np.int16)
        noise = self.store.noise(self.store.unit[row])[0] * self.protected[position]
        changed = (clean + noise).clip(0, _BRIGHTEST)
        return ProtectedPicture(
            as_png(changed.astype(np.uint8)), psnr(clean, changed), int(np.abs(changed - clean).max())
        )


def psnr(clean: np.ndarray, changed: np.ndarray) -> float:
    """Peak signal-to-noise ratio of a changed 8-bit picture in dB; infinite if nothing is changed.

    Example:
        >>> round(psnr(np.zeros(4), np.array([8, -8, 8, 8])), 2)
        30.07
    """
    error = float(np.square(changed.astype(np.float64) - clean).mean())
    return 10 * math.log10(_BRIGHTEST**2 / error) if error else math.inf
