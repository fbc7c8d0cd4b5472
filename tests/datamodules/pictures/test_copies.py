from __future__ import annotations

import numpy as np

from datamodules.pictures import copies
from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.copies import least_of_copies, picture_hashes


def random_pictures(*names: int) -> OverlaidPictures:
    """Random pictures; equal names give equal pictures."""
    pictures = [np.random.default_rng(name).integers(0, 256, (3, 4, 4), np.uint8) for name in names]
    return OverlaidPictures(np.stack(pictures))


class TestPictureHashes:
    def test_hashes_are_equal_for_equal_pixels_only(self) -> None:
        hashes = picture_hashes(random_pictures(1, 2, 1, 3, 2), 5)
        assert hashes.dtype == np.int64
        assert hashes[0] == hashes[2] and hashes[1] == hashes[4] and len(set(hashes.tolist())) == 3

    def test_a_single_pixel_changes_the_hash(self) -> None:
        images = random_pictures(1, 1)
        assert isinstance(images.clean, np.ndarray)
        images.clean[1, 0, 0, 0] ^= 1
        assert len(set(picture_hashes(images, 2).tolist())) == 2

    def test_copies_are_found_across_chunks(self) -> None:
        names = [name % 7 for name in range(copies._PICTURES_AT_ONCE + 7)]
        hashes = picture_hashes(random_pictures(*names), len(names))
        assert hashes[: copies._PICTURES_AT_ONCE : 7][0] == hashes[7 * (copies._PICTURES_AT_ONCE // 7)]
        assert len(set(hashes.tolist())) == 7

    def test_a_poison_is_hashed_with_its_trigger(self) -> None:
        plain = random_pictures(1, 1)
        assert isinstance(plain.clean, np.ndarray)
        triggered = OverlaidPictures(plain.clean, [(np.array([1]), 255 - plain.clean[:1])])
        assert len(set(picture_hashes(triggered, 2).tolist())) == 2


class TestLeastOfCopies:
    def test_takes_the_minimum_over_each_picture(self) -> None:
        value, picture = np.array([0.5, 0.1, 0.3, 0.4], np.float32), np.array([9, -4, 9, 2])
        least = least_of_copies(value, picture)
        assert least.dtype == np.float32
        np.testing.assert_array_equal(least, np.array([0.3, 0.1, 0.3, 0.4], np.float32))

    def test_unknown_values_stay_unknown_and_do_not_count(self) -> None:
        least = least_of_copies(np.array([np.nan, 0.2, 0.7]), np.array([1, 1, 1]))
        np.testing.assert_array_equal(least, [np.nan, 0.2, 0.2])

    def test_no_pairs_give_no_values(self) -> None:
        assert len(least_of_copies(np.empty(0), np.empty(0, np.int64))) == 0
