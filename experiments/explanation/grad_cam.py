"""Grad-CAM: where a picture raises its similarity to a caption."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP

MIN_CELLS = 2  # of a side: the last block of a ResNet has 7 for 224 pixels, 2 for 64, and 1 for 32, which shows nothing


class GradCAM(NamedTuple):
    """Maps of some pairs.

    Attributes:
        heat: What each cell of a picture adds to the similarity, not negative, (B, h, w).
        cosine: Similarity of each picture and its caption, (B,).
    """

    heat: Tensor
    cosine: Tensor


def grad_cam(model: CLIP, image: Tensor, text: Tensor) -> GradCAM:
    """Grad-CAM (Selvaraju et al., 2017) of the cosine of picture and caption, at the last block of the image tower.

    Where a ResNet's last block has a single cell, the last one of the stage before is taken.

    Each channel is weighted by its mean gradient. MEM's released code differs: it takes the gradient of the batch's
    loss, with batch statistics, so its maps show what raises the loss.

    Args:
        model: The model in evaluation mode.
        image: Pictures as :meth:`CLIP.encode_image` takes them, (B, 3, H, W).
        text: Unit-norm embeddings of their captions, (B, D).

    Raises:
        UsageError: If the image tower is neither a ResNet nor a vision transformer of open_clip.
    """
    block, to_maps = block_to_look_at(model.towers.visual, model.image_size)
    kept: list[Tensor] = []
    hook = block.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():  # weights may be frozen: the graph begins at the pixels
            cosine = (model.encode_image(image.detach().requires_grad_()) * text).sum(-1)
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(cosine.sum(), kept[0])
    weight = to_maps(gradient).mean((2, 3), keepdim=True)
    return GradCAM((weight * to_maps(kept[0].detach())).sum(1).relu(), cosine.detach())


def block_to_look_at(visual: Any, image_size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module of an image tower to look at, and what turns its output into maps (B, C, h, w).

    Behind the last attention of a transformer only the class token counts, so its input is taken.
    """
    if hasattr(visual, 'layer4'):
        stage = next((stage for stage in (4, 3, 2) if image_size >= MIN_CELLS * 2 ** (stage + 1)), 1)
        return getattr(visual, f'layer{stage}')[-1], lambda maps: maps
    if hasattr(visual, 'transformer') and hasattr(visual, 'grid_size'):
        return visual.transformer.resblocks[-1].ln_1, partial(_unflatten, grid=visual.grid_size)
    raise UsageError(
        f'Grad-CAM needs the blocks of an open_clip ResNet or vision transformer, and the image tower of this '
        f'model.architecture is a {type(visual).__name__}: choose another.'
    )


def _unflatten(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) of tokens (B, 1 + h * w, C) without the class token."""
    return tokens[:, -grid[0] * grid[1] :].mT.unflatten(2, grid)
