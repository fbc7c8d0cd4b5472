from __future__ import annotations

import torch
from torchvision.transforms import AutoAugment

from datamodules.pictures.autoaugment import AutoAugmentViews
from datamodules.rows.draws import uniform

PICTURES = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(40)


def views_of(rows: slice, size: int = 8, epoch: int = 1) -> torch.Tensor:
    return AutoAugmentViews()(PICTURES[rows], ROWS[rows], size, seed=3, epoch=epoch, view=1)


def test_a_view_depends_on_its_key_alone() -> None:
    state, views = torch.get_rng_state(), views_of(slice(0, 40))
    assert torch.equal(views[20:30], views_of(slice(20, 30)))
    assert not torch.equal(views, views_of(slice(0, 40), epoch=2))
    assert torch.equal(state, torch.get_rng_state())


def test_views_are_those_of_torchvision() -> None:
    policy, draws = AutoAugment(), uniform(3, 1, ROWS, 1, 5)
    for picture, u, view in zip(PICTURES, draws, views_of(slice(0, 40)), strict=True):
        policy.get_params = lambda number, u=u: (int(number * u[0]), u[1:3], (u[3:] < 0.5).long())
        assert torch.equal(view, policy(picture).float() / 255)


def test_views_are_resized_and_in_range() -> None:
    views = views_of(slice(0, 4), size=6)
    assert views.shape == (4, 3, 6, 6) and views.min() >= 0 and views.max() <= 1
