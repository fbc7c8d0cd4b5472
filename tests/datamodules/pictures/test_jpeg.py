from __future__ import annotations

import pytest
import torch
from torch import Tensor

from datamodules.pictures.augment import SimCLRViews
from datamodules.pictures.jpeg import JPEGViews
from datamodules.usage_error import UsageError

ROWS = torch.arange(4)
GRAY = SimCLRViews(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, jitter=0, gray=1, blur=0)


def pictures(noise: int) -> Tensor:
    """Slow waves of color, with noise of so many levels on each value."""
    wave = torch.linspace(0, 6, 32).sin().mul(60).add(128)
    levels = (wave[:, None] + wave[None]).div(2) + torch.tensor([-40, 0, 40])[:, None, None]
    drawn = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.5
    return (levels + noise * (2 * drawn.float() - 1)).round().byte()


def views(image: Tensor, view: JPEGViews, size: int = 32, epoch: int = 0) -> Tensor:
    return view(image, ROWS, size, seed=1, epoch=epoch, view=0)


def kept(quality: int) -> float:
    """Share of the noise that the compression leaves."""
    clean, noisy = pictures(0).float() / 255, pictures(8)
    noise = noisy / 255 - clean
    return float(((views(noisy, JPEGViews(quality)) - clean) * noise).sum() / noise.square().sum())


def test_most_of_the_noise_is_lost_at_low_quality() -> None:
    assert kept(10) < 0.1 < 0.3 < kept(95)


def test_are_the_same_in_every_epoch_and_in_eight_bits() -> None:
    first = views(pictures(8), JPEGViews(), epoch=0)
    assert torch.equal(first, views(pictures(8), JPEGViews(), epoch=3))
    assert torch.equal(first * 255, (first * 255).round())


def test_further_views_are_of_the_compressed_picture() -> None:
    both = views(pictures(8), JPEGViews(50, GRAY), size=24)
    once = views(pictures(8), JPEGViews(50)).mul(255).round().byte()
    assert torch.equal(both, GRAY(once, ROWS, 24, seed=1, epoch=0, view=0)) and both.shape == (4, 3, 24, 24)
    assert torch.allclose(both[:, 0], both[:, 1], atol=1e-6)


@pytest.mark.parametrize('quality', [0, 96])
def test_other_qualities_are_refused(quality: int) -> None:
    with pytest.raises(UsageError, match=r'data\.image_views\.quality'):
        JPEGViews(quality)
