from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.attacks.triggers import Patch, Pattern
from datamodules.pictures.augment import CleanView, ImageViews, SimCLRViews
from experiments.check.visibility import (
    Trace,
    compress_jpeg,
    make_view,
    measure_likeness,
    measure_remainder,
    measure_trace,
)
from tests.helpers.tiny import TinyPairs, set_up

SIDE = 16
ROWS = np.arange(4)


class UpperHalf(ImageViews):
    """Blackens the lower half."""

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        pixels = image.float() / 255
        pixels[:, :, size // 2 :] = 0
        return pixels


class Paler(ImageViews):
    """Halves the contrast."""

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        return image.float() / 255 / 2


class EveryOther(ImageViews):
    """Black in odd epochs."""

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        return image.float() / 255 * (1 - epoch % 2)


def data_with(folder: Path, views: ImageViews | None = None, **kwargs: Any) -> TinyPairs:
    return set_up(TinyPairs(image_views=views, cache_dir=str(folder), **{'image_size': SIDE, **kwargs}))


def gray(value: int = 100, side: int = SIDE) -> np.ndarray:
    return np.full((4, 3, side, side), value, np.uint8)


def marked(below: bool = True) -> np.ndarray:
    """Gray pictures with a small checkerboard in the lower or upper right corner."""
    pictures = gray()
    quarters = np.kron([[200, 0], [0, 200]], np.ones((3, 3))).astype(np.uint8)
    pictures[..., -6:, -6:] = quarters
    return pictures if below else np.ascontiguousarray(pictures[:, :, ::-1])


class TestVisibility:
    def test_of_a_known_change(self, tmp_path: Path) -> None:
        trace = measure_trace(data_with(tmp_path), gray(100), gray(151), ROWS, 1)
        assert trace.psnr == pytest.approx(-20 * math.log10(0.2), abs=1e-3)
        x, y, stabilizer = 100 / 255, 151 / 255, 1e-4  # of flat pictures only the term of their means is not 1
        assert trace.ssim == pytest.approx((2 * x * y + stabilizer) / (x * x + y * y + stabilizer), abs=1e-3)

    def test_of_no_change(self, tmp_path: Path) -> None:
        trace = measure_trace(data_with(tmp_path), gray(), gray(), ROWS, 2)
        assert trace == Trace(math.inf, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class TestSurvival:
    def test_is_1_if_views_change_nothing(self, tmp_path: Path) -> None:
        trace = measure_trace(data_with(tmp_path, CleanView()), gray(), marked(), ROWS, 2)
        assert (trace.resized, trace.survival, trace.visible, trace.consistency) == pytest.approx((1, 1, 1, 1))

    def test_is_0_if_the_trigger_is_cropped_away(self, tmp_path: Path) -> None:
        trace = measure_trace(data_with(tmp_path, UpperHalf()), gray(), marked(), ROWS, 2)
        assert (trace.survival, trace.visible, trace.consistency) == (0, 0, 0)
        assert trace.resized == pytest.approx(1)  # at test time it is there
        assert measure_trace(data_with(tmp_path, UpperHalf()), gray(), marked(below=False), ROWS, 2).survival > 0.99

    def test_is_a_share_of_energy(self, tmp_path: Path) -> None:
        trace = measure_trace(data_with(tmp_path, Paler()), gray(), marked(), ROWS, 1)
        assert trace.survival == pytest.approx(0.25)
        assert trace.visible == 1

    def test_is_a_mean_over_views(self, tmp_path: Path) -> None:
        trace = measure_trace(data_with(tmp_path, EveryOther()), gray(), marked(), ROWS, 4)
        assert (trace.survival, trace.visible) == pytest.approx((0.5, 0.5))

    def test_includes_the_resize(self, tmp_path: Path) -> None:
        data = data_with(tmp_path, image_size=8, cache_size=SIDE)
        fine = np.where(np.indices((SIDE, SIDE)).sum(0) % 2, 90, 110).astype(np.uint8)
        assert measure_trace(data, gray(), gray() * 0 + fine, ROWS, 1).resized < 0.1
        assert measure_trace(data, gray(100), gray(120), ROWS, 1).resized == pytest.approx(1, abs=1e-3)

    def test_hardly_depends_on_the_stored_size(self, tmp_path: Path) -> None:
        small, large = (
            measure_trace(data_with(tmp_path, cache_size=s), gray(side=s), gray(130, s), ROWS, 1) for s in (16, 32)
        )
        assert small.survival == pytest.approx(large.survival, abs=1e-3)


class TestSeen:
    def test_views_are_those_of_training(self, tmp_path: Path) -> None:
        data = data_with(tmp_path, SimCLRViews())
        batch = next(iter(data.sweep_dataloader(epoch=3)))
        trained = data.on_after_batch_transfer(batch, 0).image[0]
        view = make_view(data, batch.image.numpy(), batch.row.numpy(), epoch=3)
        deviation = (view / trained).flatten(2).mean((0, 2))
        assert torch.allclose(view, trained * deviation.view(3, 1, 1), atol=1e-5)

    def test_with_and_without_a_trigger_is_the_same_view(self, tmp_path: Path) -> None:
        data = data_with(tmp_path, SimCLRViews(jitter=0, gray=0, blur=0, crop_scale=(0.6, 0.6)))
        plain = np.random.default_rng(0).integers(0, 256, (4, 3, SIDE, SIDE), dtype=np.uint8)
        triggered = plain.copy()
        triggered[..., 7:9, 7:9] = 255 - plain[..., 7:9, 7:9]
        changed = (make_view(data, triggered, ROWS, 0) - make_view(data, plain, ROWS, 0)).abs().amax(1) > 1e-6
        assert 0 < float(changed.float().mean()) < 0.15  # a square of a sixty-fourth, larger after the crop


class TestLikeness:
    def test_ignores_shifts_and_flips(self) -> None:
        trace = torch.zeros(1, 3, SIDE, SIDE)
        trace[..., 2:6, 3:5] = torch.randn(3, 4, 2)
        assert float(measure_likeness(trace, trace.roll((5, 7), (2, 3)))) == pytest.approx(1)
        assert float(measure_likeness(trace, trace.flip(-1))) == pytest.approx(1)
        assert float(measure_likeness(trace, trace.flip(-2))) < 0.99

    def test_of_independent_noise_is_small(self) -> None:
        a, b = torch.randn(2, 8, 3, 32, 32)
        assert float(measure_likeness(a, b).mean()) < 0.12

    def test_depends_on_the_sign(self) -> None:
        trace = torch.ones(1, 3, SIDE, SIDE)
        assert float(measure_likeness(trace, -trace)) == pytest.approx(-1)

    def test_counts_only_views_that_show_the_trigger(self, tmp_path: Path) -> None:
        assert measure_trace(data_with(tmp_path, EveryOther()), gray(), marked(), ROWS, 3).consistency == pytest.approx(
            1
        )


class TestJPEG:
    def test_keeps_coarse_triggers_and_removes_fine_ones(self, tmp_path: Path) -> None:
        fine = np.where(np.indices((SIDE, SIDE)).sum(0) % 2, 99, 101).astype(np.uint8)
        data = data_with(tmp_path)
        assert measure_trace(data, gray(), gray() * 0 + fine, ROWS, 1).jpeg < 0.3
        assert measure_trace(data, gray(), gray(150), ROWS, 1).jpeg == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize(('pattern', 'lost', 'alike'), [('noise', 46, 0.59), ('dots', 2.9, 0.999)])
    def test_destroys_a_patch_of_noise_and_spares_dots(self, pattern: Pattern, lost: float, alike: float) -> None:
        pictures = Patch(16, pattern, margin=3)(gray(side=64))  # not where blocks of the format begin
        before, after = (p[0, :, -19:-3, -19:-3].astype(float) for p in (pictures, compress_jpeg(pictures)))
        assert np.abs(after - before).mean() == pytest.approx(lost, rel=0.1)
        assert np.corrcoef(after.ravel(), before.ravel())[0, 1] == pytest.approx(alike, abs=0.03)

    def test_preserves_shape_and_dtype(self) -> None:
        pictures = marked()
        assert compress_jpeg(pictures).shape == pictures.shape
        assert compress_jpeg(pictures).dtype == np.uint8

    def test_artifacts_elsewhere_do_not_count_as_the_trigger(self) -> None:
        before, after = torch.zeros(2, 1, 3, 4, 4)
        before[..., 0, 0] = 1
        after[..., 3, 3] = 5
        assert measure_remainder(after, before) == 0
        assert measure_remainder(after + before / 2, before) == 0.5
