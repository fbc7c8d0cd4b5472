"""JPEG compression as views of images, which loses much of the noise that is made to keep a model from learning."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.pictures.augment import CleanView, ImageViews
from datamodules.usage_error import check_number


class JPEGViews(ImageViews):
    """The stored picture compressed as JPEG, the same in every epoch.

    With grayscale of all pictures behind it, it is image shortcut squeezing (Liu et al., 2023).

    Args:
        quality: Quality of the compression as PIL counts it, from 1 to 95.
        then: Views to make of the compressed picture; by default it is taken as it is.
    """

    def __init__(self, quality: int = 75, then: ImageViews | None = None) -> None:
        check_number('data.image_views.quality', quality, '[1, 95]')
        self.quality, self.then = quality, then or CleanView()

    def __call__(self, image: Tensor, row: Tensor, size: int, *, seed: int, epoch: int, view: int) -> Tensor:
        pictures = [compress(picture, self.quality) for picture in image.permute(0, 2, 3, 1).cpu().numpy()]
        compressed = torch.from_numpy(np.stack(pictures)).to(image.device).permute(0, 3, 1, 2)
        return self.then(compressed, row, size, seed=seed, epoch=epoch, view=view)


def compress(picture: np.ndarray, quality: int) -> np.ndarray:
    """A picture, uint8 (h, w, 3), compressed as JPEG and read again."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'JPEG', quality=quality)
    return np.asarray(Image.open(file))
