from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.attacks import Patch
from datamodules.attacks.triggers import Position
from lightning_modules.adversarial import Norm, PatchBatch, optimize_patch, paste_patch, pgd
from lightning_modules.clip import CLIP
from tests.helpers.tiny import tiny_architecture, unit_rows

NORMS: tuple[Norm, ...] = ('linf', 'l2')


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def linear_loss(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """A loss whose optimum in a ball is known."""
    return lambda images: (images * weight).flatten(1).sum(1)


def change_sizes(change: Tensor, norm: Norm) -> Tensor:
    """Size of each image's change, (B,)."""
    return change.flatten(1).norm(float('inf') if norm == 'linf' else 2, dim=1)


class TestPGD:
    def test_linear_loss_leads_to_a_corner_of_the_linf_ball(self) -> None:
        weight, gray = random(3, 4, 4, seed=1) - 0.5, torch.full((2, 3, 4, 4), 0.5)
        adversarial = pgd(gray, linear_loss(weight), radius=0.1, step=0.03, steps=5)
        assert torch.allclose(adversarial, gray + 0.1 * weight.sign())

    def test_linear_loss_leads_along_its_gradient_to_the_l2_sphere(self) -> None:
        weight, gray = random(3, 4, 4, seed=1) - 0.5, torch.full((2, 3, 4, 4), 0.5)
        adversarial = pgd(gray, linear_loss(weight), radius=0.3, step=0.2, steps=5, norm='l2')
        assert torch.allclose(adversarial, gray + 0.3 * weight / weight.norm(), atol=1e-5)

    @pytest.mark.parametrize('norm', NORMS)
    def test_stays_in_the_ball_and_in_range_and_raises_the_loss(self, norm: Norm) -> None:
        images = random(8, 3, 4, 4).mul(1.4).sub(0.2).clamp(0, 1)  # many values at the ends of the range
        weight = random(8, 3, 4, 4, seed=1) - 0.5

        def loss(x: Tensor) -> Tensor:
            return ((5 * x + weight).sin() * weight).flatten(1).sum(1)

        radius = 0.05 if norm == 'linf' else 0.2
        adversarial = pgd(images, loss, radius, step=radius / 4, steps=10, norm=norm)
        assert (change_sizes(adversarial - images, norm) <= radius + 1e-6).all()
        assert adversarial.min() >= 0 and adversarial.max() <= 1
        assert (loss(adversarial) > loss(images)).all()
        assert not adversarial.requires_grad

    @pytest.mark.parametrize('norm', NORMS)
    def test_images_do_not_influence_each_other(self, norm: Norm) -> None:
        images, weight = random(3, 3, 4, 4), random(3, 4, 4, seed=1) - 0.5
        together = pgd(images, linear_loss(weight), 0.2, 0.05, 3, norm)
        apart = [pgd(image[None], linear_loss(weight), 0.2, 0.05, 3, norm) for image in images]
        assert torch.allclose(together, torch.cat(apart))

    def test_takes_steps_of_the_given_length(self) -> None:
        gray = torch.full((1, 3, 2, 2), 0.5)
        for norm in NORMS:
            adversarial = pgd(gray, linear_loss(torch.ones(3, 2, 2)), radius=1, step=0.01, steps=7, norm=norm)
            assert change_sizes(adversarial - gray, norm).item() == pytest.approx(0.07, abs=1e-6)

    def test_does_not_change_its_input(self) -> None:
        images = random(2, 3, 4, 4)
        before = images.clone()
        assert torch.equal(pgd(images, linear_loss(torch.ones(3, 4, 4)), 0.1, 0.1, steps=0), before)
        pgd(images, linear_loss(torch.ones(3, 4, 4)), 0.1, 0.1, steps=2)
        assert torch.equal(images, before) and not images.requires_grad


class TestPastePatch:
    @pytest.mark.parametrize('position', ['center', 'random', 'four_corners'])
    def test_pastes_the_patch_where_the_trigger_does(self, position: Position) -> None:
        trigger = Patch(5, position=position, margin=1)
        images = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 20), dtype=np.uint8)
        assert trigger.pixels is not None
        corners = torch.from_numpy(trigger.corners(images.shape, 5, np.arange(4)))
        adversarial = paste_patch(torch.from_numpy(images), torch.from_numpy(trigger.pixels), corners)
        assert np.array_equal(adversarial.numpy(), trigger(images, keys=range(4)))

    def test_gradient_sums_over_copies_of_the_patch(self) -> None:
        patch = torch.zeros(3, 2, 2, requires_grad=True)
        corners = torch.zeros(2, 4, 2, dtype=torch.int64)
        corners[1] += 2
        paste_patch(torch.ones(4, 3, 4, 4), patch, corners).sum().backward()
        assert patch.grad is not None and (patch.grad == 8).all()


class TestOptimizePatch:
    """The surrogate is linear and takes 6 x 6 pictures."""

    classifier = unit_rows(4, 8, seed=3).float()
    weight = torch.randn(108, 8, generator=torch.Generator().manual_seed(2))

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize((images - 0.5).flatten(1) @ self.weight, dim=-1)

    def batches(self, steps: int) -> Iterator[PatchBatch]:
        positives = F.normalize(self.classifier[2] + 0.3 * unit_rows(16, 8, seed=4).float(), dim=-1)
        for step in range(steps):
            corners = torch.full((1, 16, 2), step % 3)
            yield PatchBatch(random(16, 3, 6, 6, seed=step), corners, positives, self.embed)

    def optimize(self, steps: int, start: Tensor) -> Tensor:
        return optimize_patch(start, self.batches(steps), self.classifier, 2, torch.tensor(10.0), lr=0.05)

    def test_moves_patched_images_towards_the_target_and_away_from_themselves(self) -> None:
        start = random(3, 4, 4, seed=9)
        patch, (batch, *_) = self.optimize(60, start), self.batches(3)
        unpatched = self.embed(batch.images)
        before, after = (self.embed(paste_patch(batch.images, p, batch.corners)) for p in (start, patch))
        assert ((after - before) @ self.classifier[2]).min() > 0.05
        assert ((after - before) * batch.positives).sum(1).min() > 0.05
        assert ((after - before) * unpatched).sum(1).mean() < 0
        assert (after @ self.classifier.T).argmax(1).eq(2).float().mean() > 0.9

    def test_stays_in_range_and_does_not_change_the_start(self) -> None:
        start = random(3, 4, 4, seed=9)
        original = start.clone()
        patch = self.optimize(30, start)
        assert patch.min() >= 0 and patch.max() <= 1 and patch.shape == start.shape
        assert torch.equal(start, original) and not patch.requires_grad and not start.requires_grad
        assert torch.equal(patch, self.optimize(30, start))

    def test_returns_the_start_without_batches(self) -> None:
        start = random(3, 4, 4)
        assert torch.equal(self.optimize(0, start), start)


def test_the_model_may_recompute_its_activations(tmp_path: Path) -> None:
    plain, recomputing = (CLIP(tiny_architecture(tmp_path), grad_checkpointing=c).eval() for c in (False, True))
    recomputing.load_state_dict(plain.state_dict())
    images = random(2, 3, 8, 8)
    changed = [
        pgd(images, lambda x, model=model: model.encode_image(x)[:, 0], radius=0.1, step=0.1, steps=1)
        for model in (plain, recomputing)
    ]
    assert torch.equal(*changed)
