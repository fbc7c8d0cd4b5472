from __future__ import annotations

import numpy as np

from datamodules.pictures import copies
from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.copies import least_of_copies, picture_hashes


def stored(*names: int) -> OverlaidPictures:
    """Random pictures, the same for the same name."""
    pictures = [np.random.default_rng(name).integers(0, 256, (3, 4, 4), np.uint8) for name in names]
    return OverlaidPictures(np.stack(pictures), len(names))


class TestPictureHashes:
    def test_the_same_pixels_have_the_same_number_and_no_others(self) -> None:
        number = picture_hashes(stored(1, 2, 1, 3, 2), 5)
        assert number.dtype == np.int64
        assert number[0] == number[2] and number[1] == number[4] and len(set(number.tolist())) == 3

    def test_a_single_pixel_makes_another_picture(self) -> None:
        images = stored(1, 1)
        assert isinstance(images.clean, np.ndarray)
        images.clean[1, 0, 0, 0] ^= 1
        assert len(set(picture_hashes(images, 2).tolist())) == 2

    def test_pictures_may_be_in_different_chunks(self) -> None:
        names = [name % 7 for name in range(copies._PICTURES_AT_ONCE + 7)]
        number = picture_hashes(stored(*names), len(names))
        assert number[: copies._PICTURES_AT_ONCE : 7][0] == number[7 * (copies._PICTURES_AT_ONCE // 7)]
        assert len(set(number.tolist())) == 7

    def test_a_poison_is_hashed_with_its_trigger_on(self) -> None:
        plain = stored(1, 1)
        assert isinstance(plain.clean, np.ndarray)
        triggered = OverlaidPictures(plain.clean, 2, [(np.array([1]), 255 - plain.clean[:1])])
        assert len(set(picture_hashes(triggered, 2).tolist())) == 2


class TestLeastOfCopies:
    def test_is_the_least_of_each_picture(self) -> None:
        value, picture = np.array([0.5, 0.1, 0.3, 0.4], np.float32), np.array([9, -4, 9, 2])
        least = least_of_copies(value, picture)
        assert least.dtype == np.float32
        np.testing.assert_array_equal(least, np.array([0.3, 0.1, 0.3, 0.4], np.float32))

    def test_what_is_unknown_stays_so_and_does_not_count(self) -> None:
        least = least_of_copies(np.array([np.nan, 0.2, 0.7]), np.array([1, 1, 1]))
        np.testing.assert_array_equal(least, [np.nan, 0.2, 0.2])

    def test_of_nothing_is_nothing(self) -> None:
        assert len(least_of_copies(np.empty(0), np.empty(0, np.int64))) == 0
