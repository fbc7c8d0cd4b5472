from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as reference
from torchvision.transforms.functional import InterpolationMode

from datamodules.pictures import augment
from datamodules.pictures.augment import (
    MEAN,
    STD,
    CleanView,
    ImageViews,
    SimCLRViews,
    gaussian,
    hue_matrix,
    interpolation,
    normalize,
    product,
    resample,
)  # fmt: skip

ALL_OFF: dict[str, Any] = {
    'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), 'flip': 0.0, 'jitter': 0.0, 'gray': 0.0, 'blur': 0.0,
}  # fmt: skip
NO_JITTER: dict[str, Any] = {'brightness': 0.0, 'contrast': 0.0, 'saturation': 0.0, 'hue': 0.0}


def images(count: int = 4, size: int = 24, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def make_view(maker: ImageViews, image: Tensor, size: int = 24, **key: int) -> Tensor:
    return maker(image, torch.arange(len(image)), size, **{'seed': 0, 'epoch': 0, 'view': 0, **key})


def only(**on: Any) -> SimCLRViews:
    """SimCLR's views with everything off but this."""
    return SimCLRViews(**{**ALL_OFF, **NO_JITTER, **on})


def resize_by_torchvision(image: Tensor, top: int, left: int, height: int, width: int, size: int) -> Tensor:
    """torchvision's resized crop, (3, size, size)."""
    return reference.resized_crop(
        image, top, left, height, width, [size, size], InterpolationMode.BILINEAR, antialias=True
    )


def resize_by_matrices(image: Tensor, top: float, left: float, height: float, width: float, size: int) -> Tensor:
    def axis(start: float, length: float) -> Tensor:
        return interpolation(torch.tensor([start]), torch.tensor([length]), image.shape[-1], size)

    return resample(image[None], axis(top, height), axis(left, width))[0]


class TestInterpolation:
    @pytest.mark.parametrize('source', [24, 100])
    @pytest.mark.parametrize('size', [8, 13, 24, 31, 48, 100, 130])
    def test_resizes_like_torchvision(self, source: int, size: int) -> None:
        image = torch.rand(3, source, source, generator=torch.Generator().manual_seed(0))
        expected = resize_by_torchvision(image, 0, 0, source, source, size)
        assert torch.allclose(resize_by_matrices(image, 0, 0, source, source, size), expected, atol=1e-5)

    @pytest.mark.parametrize(('top', 'left', 'height', 'width'), [(3, 5, 12, 12), (0, 2, 16, 8), (10, 10, 13, 14)])
    def test_crops_like_torchvision_except_at_the_border(self, top: int, left: int, height: int, width: int) -> None:
        image = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
        inside = (..., slice(2, -2), slice(2, -2))  # at the border torchvision knows no pixels outside the crop
        expected = resize_by_torchvision(image, top, left, height, width, 16)[inside]
        assert torch.allclose(resize_by_matrices(image, top, left, height, width, 16)[inside], expected, atol=1e-5)

    def test_rows_sum_to_one(self) -> None:
        generator = torch.Generator().manual_seed(0)
        length = 1 + 23 * torch.rand(50, generator=generator)
        start = (24 - length) * torch.rand(50, generator=generator)
        assert torch.allclose(interpolation(start, length, 24, 10).sum(-1), torch.ones(50, 10))

    def test_a_negative_length_flips(self) -> None:
        start, length = torch.tensor([3.0]), torch.tensor([10.0])
        flipped = interpolation(start + length, -length, 24, 8)
        assert torch.allclose(flipped, interpolation(start, length, 24, 8).flip(1), atol=1e-6)

    def test_the_whole_axis_at_its_own_size_gives_the_identity(self) -> None:
        assert torch.equal(interpolation(torch.zeros(1), torch.full((1,), 9.0), 9, 9)[0], torch.eye(9))


class TestGaussian:
    @pytest.mark.parametrize(('sigma', 'reach'), [(0.3, 1), (1.0, 2), (2.0, 5), (5.0, 3)])
    def test_blurs_like_torchvision(self, sigma: float, reach: int) -> None:
        image = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
        matrix = gaussian(torch.tensor([sigma]), 20, reach)
        expected = reference.gaussian_blur(image, [2 * reach + 1] * 2, [sigma, sigma])
        assert torch.allclose(resample(image, matrix, matrix), expected, atol=1e-5)

    def test_sigma_zero_gives_the_identity(self) -> None:
        assert torch.equal(gaussian(torch.zeros(2), 7, 2), torch.eye(7).expand(2, -1, -1))

    def test_rows_sum_to_one(self) -> None:
        assert torch.allclose(gaussian(torch.tensor([0.1, 3.0]), 9, 4).sum(-1), torch.ones(2, 9))


class TestProduct:
    """On a CPU large matrices are multiplied in bands, which must not be seen."""

    @pytest.mark.parametrize('transposed', [False, True])
    @pytest.mark.parametrize(('rows', 'columns'), [(5, 7), (70, 90), (64, 200), (200, 65), (1, 100)])
    @pytest.mark.parametrize('count', [1, 3])
    def test_equals_the_matrix_product(self, rows: int, columns: int, count: int, transposed: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        width = torch.linspace(3, 0.5 * columns, 4)
        matrix = interpolation(columns - width, -0.9 * width, columns, rows)
        x = torch.rand(4 * count, columns, 11, generator=generator)
        x = x.mT.contiguous().mT if transposed else x
        assert torch.allclose(product(matrix, x), matrix.repeat_interleave(count, 0) @ x, atol=1e-5)

    def test_empty_rows_give_zero(self) -> None:
        matrix = torch.zeros(1, 100, 100)
        matrix[0, 50, 99] = 2
        found = product(matrix, torch.ones(1, 100, 4))
        assert found[0, 50].tolist() == [2, 2, 2, 2]
        assert found.sum() == 8

    def test_propagates_gradients(self) -> None:
        x = torch.rand(1, 100, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        matrix = gaussian(torch.tensor([2.0]), 100, 4)
        product(matrix, x).sum().backward()
        assert x.grad is not None
        assert torch.allclose(x.grad, matrix.sum(1)[..., None].expand(1, 100, 3), atol=1e-5)


class TestColor:
    """Pixels from 90 to 150, so that no factor of up to 1.3 leaves the range and nothing is clamped."""

    pixels = images(low=90, high=150)

    def factors(self, name: str, spread: float) -> list[float]:
        """The factors with which torchvision's function makes the same views; fails if there are none."""
        adjust, factors = getattr(reference, f'adjust_{name}'), []
        made = make_view(only(jitter=1, **{name: spread}), self.pixels)
        for image, found in zip(self.pixels.float() / 255, made, strict=True):
            nothing = adjust(image, 0.0)  # torchvision goes from here by way of the image in a straight line
            factor = float(((found - nothing) * (image - nothing)).sum() / ((image - nothing) ** 2).sum())
            assert torch.allclose(adjust(image, factor), found, atol=1e-4)  # its luma has one digit more
            factors.append(factor)
        return factors

    @pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation'])
    def test_jitter_agrees_with_torchvision(self, name: str) -> None:
        factors = self.factors(name, 0.3)
        assert all(0.7 <= factor <= 1.3 for factor in factors)
        assert max(factors) - min(factors) > 0.05

    def test_combined_jitter_agrees_with_torchvision_s_steps(self) -> None:
        names = ('brightness', 'contrast', 'saturation')
        factors = {name: self.factors(name, 0.2) for name in names}
        made = make_view(only(jitter=1, brightness=0.2, contrast=0.2, saturation=0.2), self.pixels)
        for number, image in enumerate(self.pixels.float() / 255):
            for name in names:
                image = getattr(reference, f'adjust_{name}')(image, factors[name][number])
            assert torch.allclose(image, made[number], atol=1e-4)

    def test_grayscale_agrees_with_torchvision(self) -> None:
        expected = reference.rgb_to_grayscale(self.pixels.float() / 255, 3)
        assert torch.allclose(make_view(only(gray=1.0), self.pixels), expected, atol=1e-3)

    @pytest.mark.parametrize('turn', [-0.1, -0.03, 0.05, 0.1])
    def test_hue_turns_like_torchvision_s(self, turn: float) -> None:
        image = self.pixels.float() / 255
        moved = (hue_matrix(torch.full((4,), turn)) @ image.flatten(2)).view_as(image) - image
        expected = reference.adjust_hue(image, turn) - image
        # Another model of color, so only roughly the same way, but as far.
        assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.6
        assert moved.norm().item() == pytest.approx(expected.norm().item(), rel=0.15)

    def test_jitter_turns_hue_at_most_as_far_as_requested(self) -> None:
        image, made = self.pixels.float() / 255, make_view(only(jitter=1, hue=0.1), self.pixels)
        luma = torch.tensor([0.299, 0.587, 0.114])
        assert torch.allclose(luma @ made.flatten(2), luma @ image.flatten(2), atol=1e-4)
        farthest = [(hue_matrix(torch.full((4,), t)) @ image.flatten(2)).view_as(image) - image for t in (-0.1, 0.1)]
        moved = (made - image).flatten(1).norm(dim=1)
        assert (moved > 0).all()
        assert (moved <= torch.stack(farthest).flatten(2).norm(dim=2).amax(0) + 1e-4).all()

    def test_hue_preserves_gray_and_luma(self) -> None:
        matrix = hue_matrix(torch.tensor([0.07]))[0]
        luma = torch.tensor([0.299, 0.587, 0.114])
        assert torch.allclose(matrix @ torch.full((3,), 0.4), torch.full((3,), 0.4), atol=1e-5)
        assert torch.allclose(luma @ matrix, luma, atol=1e-5)

    def test_a_turn_of_zero_is_the_identity(self) -> None:
        assert torch.allclose(hue_matrix(torch.zeros(1))[0], torch.eye(3), atol=1e-6)


class TestSimCLRViews:
    def test_with_everything_off_returns_the_image(self) -> None:
        image = images()
        assert torch.allclose(make_view(only(), image), image.float() / 255, atol=1e-6)

    def test_flips_half_of_the_images(self) -> None:
        image = images(400, size=6)
        made = make_view(only(flip=0.5), image, size=6)
        straight = (made - image.float() / 255).abs().amax((1, 2, 3)) < 1e-4
        flipped = (made - image.flip(-1).float() / 255).abs().amax((1, 2, 3)) < 1e-4
        assert (straight ^ flipped).all()
        assert 160 < flipped.sum() < 240

    def test_crops_have_the_requested_areas_and_ratios(self) -> None:
        ramp = torch.arange(64).mul(4).to(torch.uint8)  # a pixel's value says where it was
        image = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64, dtype=torch.uint8)])
        made = make_view(only(crop_scale=(0.2, 0.5), crop_ratio=(0.5, 2.0)), image.expand(200, -1, -1, -1), 64)
        middle = made[:, :2, 16:48, 16:48] * 255 / 4  # in source pixels; off the borders
        width = (middle[:, 0, 0, -1] - middle[:, 0, 0, 0]) * 64 / 31
        height = (middle[:, 1, -1, 0] - middle[:, 1, 0, 0]) * 64 / 31
        area, ratio = width * height / 64**2, width / height
        assert 0.19 < area.min() < 0.25
        assert 0.45 < area.max() < 0.51
        assert 0.48 < ratio.min() < 0.6
        assert 1.6 < ratio.max() < 2.1

    def test_jitters_grays_and_blurs_with_the_requested_probability(self) -> None:
        image = images(500, size=8, low=90, high=150)
        untouched = image.float() / 255
        for share, views in (
            (0.8, only(jitter=0.8, contrast=0.3)),
            (0.2, only(gray=0.2)),
            (0.5, only(blur=0.5, blur_sigma=(28, 56))),
        ):
            changed = (make_view(views, image, size=8) - untouched).abs().amax((1, 2, 3)) > 1e-5
            assert changed.float().mean().item() == pytest.approx(share, abs=0.08)

    def test_blurs_in_proportion_to_the_size(self) -> None:
        image = images()
        expected = reference.gaussian_blur(image.float() / 255, [3, 3], [6.0, 6.0])  # a tenth of 24 pixels, made odd
        found = make_view(only(blur=1.0, blur_sigma=(56, 56)), image)  # a quarter of 224 pixels
        assert torch.allclose(found, expected, atol=1e-5)

    def test_stays_in_the_unit_interval(self) -> None:
        views = SimCLRViews(brightness=2.0, contrast=2.0, saturation=2.0, hue=0.5)
        made = make_view(views, images(100))
        assert made.min() >= 0
        assert made.max() <= 1
        assert made.isfinite().all()

    @pytest.mark.parametrize(('count', 'size'), [(12, 16), (40, 90)])  # the latter are too many to be made at once
    def test_a_view_depends_on_its_row_but_not_on_its_batch(self, count: int, size: int) -> None:
        image, views, key = images(count, size + 8), SimCLRViews(), {'seed': 1, 'epoch': 2, 'view': 1}
        rows = torch.arange(100, 100 + count)
        together = views(image, rows, size, **key)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        shuffled = views(image[order], rows[order], size, **key)
        alone = torch.cat([views(image[i : i + 1], rows[i : i + 1], size, **key) for i in range(count)])
        assert torch.allclose(shuffled, together[order], atol=1e-6)
        assert torch.allclose(alone, together, atol=1e-6)

    @pytest.mark.parametrize('changed', [{'seed': 1}, {'epoch': 1}, {'view': 1}])
    def test_seed_epoch_and_view_change_the_view(self, changed: dict[str, int]) -> None:
        image = images(8)
        first, second = make_view(SimCLRViews(), image), make_view(SimCLRViews(), image, **changed)
        assert ((first - second).abs().amax((1, 2, 3)) > 0.01).all()

    def test_does_not_touch_its_argument_or_the_global_generator(self) -> None:
        image, state = images(), torch.get_rng_state()
        kept = image.clone()
        make_view(SimCLRViews(), image)
        assert torch.equal(image, kept)
        assert torch.equal(torch.get_rng_state(), state)

    def test_never_waits_for_the_device(self) -> None:
        image, row = images(2).to('meta'), torch.arange(2, device='meta')  # where asking for a value raises
        with pytest.MonkeyPatch.context() as patch:
            normalize(SimCLRViews()(image, row, 16, seed=0, epoch=0, view=0))
            patch.setattr(torch, 'tensor', None)  # as does sending numbers once more
            patch.setattr(torch.linalg, 'inv', None)
            view = normalize(SimCLRViews()(image, row, 16, seed=0, epoch=1, view=1))
        assert view.shape == (2, 3, 16, 16)

    def test_can_be_differentiated_after_an_evaluation(self) -> None:
        augment._constant.cache_clear(), augment._color_spaces.cache_clear()
        with torch.inference_mode():
            make_view(SimCLRViews(), images())
        pixels = images().float().requires_grad_()
        normalize(make_view(SimCLRViews(), pixels)).sum().backward()
        assert pixels.grad is not None and pixels.grad.any()

    def test_accepts_pictures_larger_than_the_view(self) -> None:
        assert make_view(SimCLRViews(), images(size=40), size=16).shape == (4, 3, 16, 16)

    @pytest.mark.parametrize(
        ('argument', 'value'),
        [
            ('crop_ratio', (0.0, 1.0)),
            ('blur_sigma', (2.0, 1.0)),
            ('flip', 1.5),
            ('hue', -0.1),
            ('contrast', math.inf),
            ('blur', math.nan),
        ],
    )
    def test_rejects_numbers_out_of_range(self, argument: str, value: Any) -> None:
        with pytest.raises(ValueError, match=rf'^data\.image_views\.{argument} must '):
            SimCLRViews(**{argument: value})

    @pytest.mark.parametrize('scale', [(0.0, 1.0), (0.5, 0.4), (0.5, 1.5)])
    def test_rejects_invalid_areas(self, scale: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match='crop_scale must be two fractions of the area, least first'):
            SimCLRViews(crop_scale=scale)


class TestCleanView:
    def test_returns_the_image(self) -> None:
        image = images()
        assert torch.equal(make_view(CleanView(), image), image.float() / 255)

    @pytest.mark.parametrize('size', [12, 40])
    def test_resizes_like_torchvision(self, size: int) -> None:
        image = images()
        expected = resize_by_torchvision(image.float() / 255, 0, 0, 24, 24, size)
        assert torch.allclose(make_view(CleanView(), image, size), expected, atol=1e-5)

    def test_does_not_depend_on_the_key(self) -> None:
        image = images()
        assert torch.equal(
            make_view(CleanView(), image, 16), make_view(CleanView(), image, 16, seed=3, epoch=4, view=1)
        )


def test_normalizes_like_torchvision() -> None:
    image = images().float() / 255
    assert torch.allclose(normalize(image), reference.normalize(image, list(MEAN), list(STD)), atol=1e-6)
    assert torch.allclose(normalize(image[None]), normalize(image)[None])
