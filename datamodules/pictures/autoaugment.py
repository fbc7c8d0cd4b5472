"""AutoAugment's policy of ImageNet as views of images, as CleanCLIP takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.pictures.augment import CleanView, ImageViews
from datamodules.rows.draws import uniform

_DRAWS = 5  # of an image: which policy, whether to apply each of its two steps, and the sign of each


class AutoAugmentViews(ImageViews):
    """AutoAugment (Cubuk et al., 2019) with the policy found on ImageNet, as CleanCLIP uses it (Bansal et al., 2023).

    Two steps, such as a rotation and a change of color, are applied to the stored picture, which is then resized. They
    are torchvision's; the random numbers are not, so that a view depends on seed, epoch, row and view alone.
    """

    def __init__(self) -> None:
        from torchvision.transforms import AutoAugment  # takes a second

        self._augment: Any = AutoAugment()

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        draws = uniform(seed, epoch, row, view, _DRAWS).cpu()
        augmented = torch.stack([self._apply(*pair) for pair in zip(image, draws, strict=True)])
        return CleanView()(augmented, row, size, seed=seed, epoch=epoch, view=view)

    def _apply(self, image: Tensor, u: Tensor) -> Tensor:
        """Augments one picture, uint8 (3, h, w), as five uniform random numbers say."""
        self._augment.get_params = lambda policies: (int(policies * u[0]), u[1:3], u[3:] < 0.5)
        return self._augment(image)
