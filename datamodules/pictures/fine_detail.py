"""The fine detail of pictures as vectors: what a trigger repeats, and pictures of different things do not share.

A picture less its blurred self holds edges and texture. Those of unrelated pictures hardly agree, pixel by pixel. So a
pattern that lies over many pictures, such as a watermark, and a small thing that is pasted into many, such as a logo or
a patch, show as vectors that are unusually close: :func:`datamodules.rows.recurrence.recurrence`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from datamodules.rows.draws import bits

PATTERN_WIDTH = 1024  # dimensions of a pattern; a cosine of two patterns is off by 0.03 then
SIGMA = 1.0  # of the blur, in pixels
ROUNDING = 0.01  # what the blur of an even surface differs from it by, at most
SURROUNDINGS = 5  # side in pixels of what a pixel's detail is compared with
QUIET = 2.0  # of 255; weaker detail is not amplified, as it may be rounding
SMALLEST_WINDOW, WINDOWS_IN_SIDE = 8, 14  # side of a large window: 1/14 of a picture, as BadNet's patch in the papers
_SKETCH_KEY = 0x736B_6574  # key of the draw of signs and places; any number would do


def fine_detail(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures less their blurred selves, float32 (B, 3, h, w), in units of 1/255."""
    pixels = torch.from_numpy(pictures).float()
    from torchvision.transforms.functional import gaussian_blur  # takes seconds to import

    return F.hardshrink(pixels - gaussian_blur(pixels, [5, 5], [SIGMA, SIGMA]), ROUNDING)


def patterns(pictures: NDArray[np.uint8]) -> Tensor:
    """Sketches of fine detail over the whole picture: unit-norm, float32 (B, :data:`PATTERN_WIDTH`).

    Detail is first divided by its strength around each pixel, or the few strongest edges would outweigh a faint
    pattern. Cosines of sketches are those of the pictures, but for a small error: each coordinate is the sum of some
    pixels with random signs (count sketch; Charikar et al., 2002). Without any detail, a sketch is 0.

    Args:
        pictures: uint8 (B, 3, h, w).
    """
    detail = fine_detail(pictures)
    strength = F.avg_pool2d(detail.square().mean(1, keepdim=True), SURROUNDINGS, 1, SURROUNDINGS // 2)
    even = (detail / (strength + QUIET**2).sqrt()).flatten(1)
    draws = bits(even.shape[1], _SKETCH_KEY, even.shape[1])
    place = torch.from_numpy((draws >> np.uint64(1)).astype(np.int64) % PATTERN_WIDTH)
    sign = torch.from_numpy((draws & np.uint64(1)).astype(np.float32) * 2 - 1)
    return F.normalize(even.new_zeros(len(even), PATTERN_WIDTH).index_add_(1, place, even * sign), dim=1)


def salient_windows(pictures: NDArray[np.uint8], side: int) -> Tensor:
    """The square window with the most fine detail in each picture: unit-norm, float32 (B, 3 * w * w); 0 without detail.

    Args:
        pictures: uint8 (B, 3, h, w).
        side: Side of a window in pixels.
    """
    detail = fine_detail(pictures)
    top, left = salient_places(detail, side)
    along = torch.arange(side)
    picture, channel = torch.arange(len(detail))[:, None, None, None], torch.arange(3)[:, None, None]
    down, right = (start[:, None, None, None] + along for start in (top, left))
    return F.normalize(detail[picture, channel, down.transpose(2, 3), right].flatten(1), dim=1)


def salient_places(detail: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Top rows and left columns of :func:`salient_windows`, int64 (B,) each.

    Args:
        detail: What :func:`fine_detail` returns.
        side: Side of a window in pixels.
    """
    strength = F.avg_pool2d(detail.square().sum(1, keepdim=True), side, 1)[:, 0]
    place = strength.flatten(1).argmax(1)
    return place // strength.shape[-1], place % strength.shape[-1]


def window_sides(size: int) -> tuple[int, int]:
    """Sides in pixels of the windows that pictures of some size are compared by: a window finds what about fills it."""
    large = min(size, max(SMALLEST_WINDOW, size // WINDOWS_IN_SIDE))
    return large, large // 2
