from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.pictures.fine_detail import fine_detail, patterns, salient_places, salient_windows, window_sides
from tests.helpers.natural import natural_pictures, paste, saved_as_jpeg

NOISE = np.random.default_rng(5).integers(-20, 21, (3, 32, 32))
CHECKER = np.tile(np.kron(255 * np.eye(2, dtype=np.uint8), np.ones((2, 2), np.uint8)), (3, 2, 2))  # (3, 8, 8)


def with_noise(pictures: np.ndarray) -> np.ndarray:
    return (pictures + NOISE).clip(0, 255).astype(np.uint8)


class TestPatterns:
    def test_pictures_under_one_faint_pattern_are_closer_than_any_others(self) -> None:
        plain, marked = natural_pictures(60, 32, seed=0), with_noise(natural_pictures(20, 32, seed=1))
        vectors = patterns(np.concatenate([plain, marked]))
        cosine = vectors @ vectors.T - torch.eye(80)
        assert cosine[60:, 60:].sum() / (20 * 19) > 0.45 > 0.25 > cosine[:60].max()

    def test_a_pattern_outlives_jpeg(self) -> None:
        plain, marked = natural_pictures(20, 32, seed=0), with_noise(natural_pictures(20, 32, seed=1))
        vectors = patterns(np.stack([saved_as_jpeg(picture) for picture in (*plain, *marked)]))
        cosine = vectors @ vectors.T - torch.eye(40)
        assert cosine[20:, 20:].median() > cosine[:20].max()

    def test_a_sketch_has_unit_norm_and_that_of_a_picture_without_detail_is_0(self) -> None:
        pictures = natural_pictures(3, 16, seed=0)
        pictures[1] = 200
        assert patterns(pictures).norm(dim=1).tolist() == pytest.approx([1, 0, 1], abs=1e-6)

    def test_sketches_have_about_the_cosines_of_the_pictures_and_depend_on_no_other_picture(self) -> None:
        pictures = with_noise(natural_pictures(4, 32, seed=0))
        alone = torch.cat([patterns(picture[None]) for picture in pictures])
        assert torch.equal(patterns(pictures), alone)
        larger = patterns(np.pad(pictures, ((0, 0), (0, 0), (0, 64), (0, 0)), mode='edge'))  # other places and signs
        assert torch.allclose(alone @ alone.T, larger @ larger.T, atol=0.15)


class TestSalientWindows:
    def test_finds_a_patch_at_any_place(self) -> None:
        plain, marked = natural_pictures(30, 32, seed=0), natural_pictures(30, 32, seed=1)
        paste(marked, CHECKER, seed=2)
        vectors = salient_windows(np.concatenate([plain, marked]), 8)
        cosine = vectors @ vectors.T - torch.eye(60)
        assert cosine[30:, 30:].sum() / (30 * 29) > 0.9 > cosine[:30].max()

    def test_places_are_those_of_the_patch(self) -> None:
        picture = natural_pictures(1, 32, seed=0)
        picture[0, :, 5:13, 20:28] = CHECKER
        (top,), (left,) = salient_places(fine_detail(picture), 8)
        assert abs(int(top) - 5) <= 1 and abs(int(left) - 20) <= 1

    @pytest.mark.parametrize(('size', 'sides'), [(224, (16, 8)), (64, (8, 4)), (6, (6, 3))])
    def test_windows_are_a_fourteenth_of_a_picture_but_not_too_small(self, size: int, sides: tuple[int, int]) -> None:
        assert window_sides(size) == sides
        for side in sides:
            assert salient_windows(natural_pictures(2, size, seed=0), side).shape == (2, 3 * side * side)

    def test_a_picture_without_detail_has_an_empty_window(self) -> None:
        assert not salient_windows(np.full((1, 3, 16, 16), 7, np.uint8), 8).any()
