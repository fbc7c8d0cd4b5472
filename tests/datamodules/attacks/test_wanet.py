from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from datamodules.attacks import WaNet, WaNetNoise, Warp, poison_table
from datamodules.attacks.wanet import interpolate_field, make_lookup, scale_to_pixels
from tests.datamodules.attacks.pools import captioned_pool, checksum, gradient, labeled_pool, pixels


def published_control(points: int) -> np.ndarray:
    """Control points of the published reference values, (2, points, points)."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(1, 2, points, points, generator=generator) * 2 - 1)[0].double().numpy()


def published_warp(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """An image warped by the formula of the paper, before rounding: float (1, 3, H, W)."""
    height, width = image.shape[2:]
    y, x = np.indices((height, width))
    grid = np.stack([2 * (x + displacement[0]) / (width - 1) - 1, 2 * (y + displacement[1]) / (height - 1) - 1], -1)
    sampled = grid_sample(
        torch.from_numpy(image).double(), torch.from_numpy(grid.clip(-1, 1))[None], align_corners=True
    )
    return sampled.numpy()


class TestField:
    def test_has_the_published_values(self) -> None:
        smooth, jitter = (interpolate_field(published_control(points), 224, 224) for points in (4, 224))
        assert np.abs(smooth).mean() == pytest.approx(0.706127, abs=1e-5)
        assert smooth[:, 0, 0] == pytest.approx([-0.015992, 0.844446], abs=1e-5)
        assert np.abs(jitter).mean() == pytest.approx(1)
        assert jitter[:, 0, 0] == pytest.approx([-0.015011, 1.911183], abs=1e-5)

    def test_equals_the_control_points_if_there_is_one_at_each_pixel(self) -> None:
        control = published_control(8)
        assert np.allclose(interpolate_field(control, 8, 8), control / np.abs(control).mean(), atol=1e-12)

    @pytest.mark.parametrize(
        ('points', 'strength', 'moved'), [(4, 0.5, 0.001278), (224, 1.0, 0.003311), (224, 0.6, 0.002064)]
    )
    def test_moves_the_reference_image_by_the_published_amount(
        self, points: int, strength: float, moved: float
    ) -> None:
        image, displacement = (
            gradient(),
            strength * scale_to_pixels(interpolate_field(published_control(points), 224, 224)),
        )
        exact = published_warp(image, displacement)
        assert np.abs(exact - image).mean() / 255 == pytest.approx(moved, abs=2e-5)

    def test_averages_about_half_a_pixel_at_strength_1(self) -> None:
        assert np.abs(Warp(None, 1.0).displacement(224, 224)).mean() == pytest.approx(223 / 448)
        assert np.abs(Warp().displacement(224, 224)).mean() < 0.3


class TestWarp:
    def test_is_the_published_formula_up_to_rounding(self) -> None:
        smooth = np.broadcast_to(np.sin(np.arange(40) / 6)[:, None] * 100 + 120, (1, 3, 40, 40)).astype(np.uint8)
        for warp in (Warp(4, 2.0), Warp(None, 1.0)):
            exact = published_warp(smooth, warp.displacement(40, 40))
            assert np.abs(warp(smooth) - exact).max() < 0.7

    def test_no_displacement_gives_the_image_back_exactly(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (2, 3, 15, 21), dtype=np.uint8)
        assert np.array_equal(Warp(strength=0)(image), image)

    def test_a_constant_displacement_shifts_columns(self) -> None:
        places, weights = make_lookup(np.stack([np.full((4, 6), 1.0), np.zeros((4, 6))]))
        assert weights[0].tolist() == [4096] * 24
        assert places[0].reshape(4, 6)[0].tolist() == [1, 2, 3, 4, 5, 5]  # never from outside

    def test_is_the_same_on_all_images_and_another_with_another_seed(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (1, 3, 20, 20), dtype=np.uint8)
        first, second = Warp(strength=2.0)(np.concatenate([image, image]))
        assert np.array_equal(first, second)
        assert not np.array_equal(first, Warp(strength=2.0, seed=1)(image)[0])

    def test_a_flat_image_stays_as_it_is(self) -> None:
        flat = np.full((1, 3, 16, 16), 255, np.uint8)
        assert np.array_equal(Warp(strength=3.0, noise=True)(flat, keys=[0]), flat)

    def test_noise_follows_the_key_and_needs_it(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (1, 3, 20, 20), dtype=np.uint8)
        warp = Warp(noise=True)
        after = warp(np.concatenate([image] * 3), keys=[4, 9, 4])
        assert np.array_equal(after[0], after[2])
        assert not np.array_equal(after[0], after[1])
        with pytest.raises(ValueError, match='noise of a warp needs keys'):
            warp(image)

    @pytest.mark.parametrize(('points', 'strength'), [(1, 0.5), (4, -0.5), (4, math.nan), (4, math.inf)])
    def test_refuses_meaningless_values(self, points: int, strength: float) -> None:
        with pytest.raises(ValueError, match=r'^control_points must be 2 .* and strength 0 or more and finite, got'):
            Warp(points, strength)

    def test_the_default_never_changes(self) -> None:
        assert checksum(Warp()) == '3221ace704f4724b'
        assert checksum(Warp(None, 1.0)) == 'c6741f6f323631a6'


class TestNoiseMode:
    def test_has_the_warp_of_the_attack_and_jitter_on_top(self) -> None:
        attack, noise = WaNet('dog', count=2, seed=3), WaNetNoise('dog', count=4, seed=3)
        assert isinstance(attack.trigger, Warp) and isinstance(noise.trigger, Warp)
        assert np.array_equal(attack.trigger.displacement(12, 12), noise.trigger.displacement(12, 12))
        assert (attack.trigger.noise, noise.trigger.noise) == (False, True)

    def test_captions_stay_and_images_differ_from_those_of_the_attack(self) -> None:
        pool = captioned_pool()
        _, manifest = poison_table({'wanet': WaNet('dog', count=5), 'noise': WaNetNoise('dog', count=10)}, pool)
        assert pool.heldout is not None
        for poison in manifest.poisons('noise'):
            assert poison.caption == pool.heldout.caption[poison.source].as_py()
            assert poison.source // 2 % 5 != 1
        assert not {p.source for p in manifest.poisons('wanet')} & {p.source for p in manifest.poisons('noise')}


def test_training_and_test_images_carry_the_same_warp() -> None:
    attack = WaNet('dog', strength=4.0, count=5)
    measured = attack.evaluation('wanet', [], labeled_pool(), pixels).images
    rows = np.array([row for row in range(100) if row % 5 != 1])
    assert np.array_equal(measured, Warp(strength=4.0)(pixels('heldout', rows)))
