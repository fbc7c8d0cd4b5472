"""Pictures at so small a size that copies of them, saved anew or resized, are nearly equal."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SIDE = 16
SAME = 3 / 255  # root mean square of the difference of two copies, of the range of a value; JPEG makes half of it
REACH = SAME * (3 * SIDE * SIDE) ** 0.5  # the same as a Euclidean distance


def thumbnails(pictures: NDArray[np.uint8]) -> Tensor:
    """Means over a grid of 16 x 16 cells, in [0, 1], float32 (B, 768), of pictures, uint8 (B, 3, h, w)."""
    return F.adaptive_avg_pool2d(torch.from_numpy(pictures).float() / 255, SIDE).flatten(1)
