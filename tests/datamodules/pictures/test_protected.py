from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.noise_store import NoiseStore, StoreSettings
from datamodules.pictures.protected import ProtectedPictures, psnr


def test_is_the_picture_with_its_noise_within_the_range_of_a_picture_if_it_is_protected(tmp_path: Path) -> None:
    settings = StoreSettings('MEM', 'abc', 4, 8, 'row', 0, 'start', 'clip', 0)
    NoiseStore.create(tmp_path / 'noise', settings, np.arange(3), np.ones(3), np.empty((3, 0)))
    store = NoiseStore.open(tmp_path / 'noise')
    store.begin(0)
    store.write(np.arange(3), np.array([8, -8, 5]).reshape(3, 1, 1, 1), np.empty((3, 0)))
    store.mark_written(np.arange(3))
    store.end()
    clean = np.array([100, 3, 7], np.uint8).reshape(3, 1, 1, 1) * np.ones((1, 3, 4, 4), np.uint8)
    images, protected = OverlaidPictures(clean), np.array([True, True, False])
    pictures = ProtectedPictures(images, store, np.arange(3), protected)
    shown = [np.unique(np.asarray(Image.open(io.BytesIO(pictures[number].png)))).tolist() for number in range(3)]
    assert shown == [[108], [0], [7]] and [pictures[number].largest for number in range(3)] == [8, 3, 0]
    assert pictures[0].psnr == pytest.approx(20 * math.log10(255 / 8)) and pictures[2].psnr == math.inf


def test_psnr_is_that_of_the_mean_square() -> None:
    clean, changed = np.full((3, 2, 2), 200, np.int16), np.full((3, 2, 2), 200, np.int16)
    changed[0, 0] += 6
    assert psnr(clean, changed) == pytest.approx(10 * math.log10(255**2 / (2 * 36 / 12)))
