from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.pictures.near_copies import average_near_copies, find_near_copies
from datamodules.pictures.stored import StoredPictures, checksums

LEVELS = 8


def stored(images: np.ndarray, unreadable: tuple[int, ...] = ()) -> StoredPictures:
    readable = ~np.isin(np.arange(len(images)), unreadable)
    return StoredPictures(Path('unused.npy'), images, readable, checksums(images), lambda rows: images[rows])


def photos(count: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8)


def noisy(photo: np.ndarray, copies: int) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-LEVELS, LEVELS + 1, (copies, *photo.shape))
    return (photo.astype(np.int64) + noise).clip(0, 255).astype(np.uint8)


def found(pictures: StoredPictures, levels: int = 2 * LEVELS) -> list[list[int]]:
    return [copies.tolist() for copies in find_near_copies(pictures, np.arange(len(pictures)), levels)]


class TestFinding:
    @pytest.mark.parametrize('side', [4, 16, 20])
    def test_copies_with_noise_of_their_own_find_each_other(self, side: int) -> None:
        first, second, third = photos(3, side)
        images = np.concatenate([noisy(first, 2), second[None], noisy(first, 1), noisy(third, 2)])
        assert found(stored(images)) == [[0, 1, 3], [0, 1, 3], [2], [0, 1, 3], [4, 5], [4, 5]]

    def test_one_value_that_differs_more_tells_pictures_apart(self) -> None:
        images = np.full((3, 3, 16, 16), 100, np.uint8)
        images[1, 2, 5, 5], images[2, 2, 5, 5] = 116, 117
        assert found(stored(images)) == [[0, 1], [0, 1, 2], [1, 2]]

    def test_a_picture_has_no_copies_among_none(self) -> None:
        assert found(stored(photos(1))) == [[0]]


class TestAveraging:
    def test_takes_the_mean_of_copies_and_leaves_others_as_they_are(self, tmp_path: Path) -> None:
        photo, other = photos(2)
        copies = noisy(photo, 5)
        averaged = average_near_copies(stored(np.stack([*copies, other])), tmp_path / 'averaged.npy', 2 * LEVELS)
        assert (averaged[:5] == np.rint(copies.mean(0))).all() and (averaged[5] == other).all()
        before, after = (np.abs(x.astype(np.int64) - photo).mean() for x in (copies[0], averaged[0]))
        assert after < 0.6 * before  # by the square root of five, where noise is independent

    def test_equal_pictures_count_once(self, tmp_path: Path) -> None:
        light, dark = np.full((3, 16, 16), 110, np.uint8), np.full((3, 16, 16), 100, np.uint8)
        averaged = average_near_copies(stored(np.stack([light, light, light, dark])), tmp_path / 'a.npy', 10)
        assert (averaged == 105).all()

    def test_what_cannot_be_read_is_nobodys_copy(self, tmp_path: Path) -> None:
        images = np.stack([np.full((3, 16, 16), level, np.uint8) for level in (0, 4, 6)])
        averaged = average_near_copies(stored(images, unreadable=(0,)), tmp_path / 'a.npy', 10)
        assert averaged[:, 0, 0, 0].tolist() == [0, 5, 5]
