from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_modules.noise_steps import add_noise, bounds, perturb

EPS = 8


def random_pictures(seed: int) -> Tensor:
    return torch.randint(0, 256, (4, 3, 6, 6), generator=torch.Generator().manual_seed(seed)).short()


class TestPerturb:
    def test_golden_values(self) -> None:
        """Pixels at 0, 0.01, 0.5, 0.99 and 1 under a constant gradient: 8 steps of one level, clipped to the range."""
        levels = 255 * torch.tensor([0, 0.01, 0.5, 0.99, 1], dtype=torch.float64)
        gradient = torch.tensor([1.0, -1, 1, -1, 1])
        noise = perturb(torch.zeros_like(levels), lambda *_: gradient, 8, 1, *bounds(levels, EPS))
        assert noise.tolist() == pytest.approx([0, 8, -8, 2.55, -8])
        unclipped = perturb(torch.zeros_like(levels), lambda *_: gradient, 8, 1, torch.tensor(-8), torch.tensor(8))
        assert unclipped.tolist() == pytest.approx([-8, 8, -8, 8, -8])

    @pytest.mark.parametrize('step', [1, 3, -1])
    def test_stays_in_its_bounds_and_in_whole_levels_of_8_bits(self, step: int) -> None:
        pictures, generator = random_pictures(0), torch.Generator().manual_seed(1)

        def gradient(noise: Tensor, number: int) -> Tensor:
            return torch.randn(noise.shape, generator=generator) - 0.5

        noise = perturb(torch.zeros_like(pictures), gradient, 20, step, *bounds(pictures, EPS))
        protected = pictures + noise
        assert noise.dtype == torch.int16 and noise.abs().max() == EPS
        assert protected.min() >= 0 and protected.max() <= 255
        assert torch.equal(add_noise(pictures.byte(), noise).short(), protected)  # what is stored is what is seen

    def test_descends_or_ascends_a_linear_loss(self) -> None:
        gray, weight = torch.full((2, 3, 2, 2), 128, dtype=torch.int16), torch.randn(2, 3, 2, 2)
        for step, sign in ((2, -1), (-2, 1)):
            noise = perturb(torch.zeros_like(gray), lambda *_: weight, 3, step, *bounds(gray, EPS))
            assert torch.equal(noise, (sign * 6 * weight.sign()).short())

    def test_no_gradient_moves_nothing(self) -> None:
        gray = torch.full((1, 3, 2, 2), 128, dtype=torch.int16)
        assert not perturb(
            torch.zeros_like(gray), lambda noise, _: torch.zeros_like(noise), 5, 1, *bounds(gray, 8)
        ).any()

    def test_zero_steps_bring_a_start_within_its_bounds(self) -> None:
        pictures = torch.tensor([0, 3, 128, 254], dtype=torch.int16)
        start = torch.tensor([-5, -5, 20, 5], dtype=torch.int16)
        assert perturb(start, lambda *_: start, 0, 1, *bounds(pictures, EPS)).tolist() == [0, -3, 8, 1]


class TestEightBits:
    def test_added_noise_is_never_rounded(self) -> None:
        pictures = random_pictures(2).byte()
        noise = torch.randint(-EPS, EPS + 1, pictures.shape, generator=torch.Generator().manual_seed(3))
        protected = add_noise(pictures, noise)
        exact = (pictures.long() + noise).clamp(0, 255)
        assert protected.dtype == torch.uint8 and torch.equal(protected.long(), exact)
        assert (protected.long() - pictures.long()).abs().max() <= EPS

    def test_noise_of_8_bits_does_not_wrap(self) -> None:
        bright, noise = torch.tensor([250, 5], dtype=torch.uint8), torch.tensor([100, -100], dtype=torch.int8)
        assert add_noise(bright, noise).tolist() == [255, 0]
