"""Images that a model is optimized against: projected gradient ascent, and the patch of BadCLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Norm = Literal['linf', 'l2']
IMAGE_WEIGHT = 5.0  # of the loss on images, over the logit scale: 500 in BadCLIP's code, for a model whose scale is 100


def pgd(
    images: Tensor, loss: Callable[[Tensor], Tensor], radius: float, step: float, steps: int, norm: Norm = 'linf'
) -> Tensor:
    """Images nearby on which a loss is high: projected gradient ascent (Madry et al., 2018) from the images themselves.

    Args:
        images: In [0, 1], (B, 3, H, W).
        loss: What to raise: a function of such images, a value for each or their sum. An image's value must not
            depend on the others.
        radius: How far an image may move, in units of [0, 1]: each value with ``linf``, the Euclidean length of the
            change with ``l2``.
        step: Length of a step, in the same norm.
        steps: Number of steps; 0 gives the images back.
        norm: Which norm bounds the change.

    Returns:
        Images in [0, 1] within ``radius`` of the given ones, (B, 3, H, W), without gradient.
    """
    images = images.detach()
    moved = images.clone()
    for _ in range(steps):
        (uphill,) = torch.autograd.grad(loss(moved.requires_grad_()).sum(), moved)
        uphill = uphill.sign() if norm == 'linf' else F.normalize(uphill.flatten(1)).view_as(uphill)
        change = moved.detach() + step * uphill - images
        change = change.clamp(-radius, radius) if norm == 'linf' else change.renorm(2, 0, radius)
        moved = (images + change).clamp(0, 1)  # towards images that are in range: stays in the ball
    return moved


class PatchBatch(NamedTuple):
    """What one step of :func:`optimize_patch` works on.

    Attributes:
        images: Images of other classes in [0, 1], (B, 3, h, w).
        corners: Row and column of the top left pixel of each copy of the patch, int64 (copies, B, 2).
        wanted: Unit-norm embeddings of images of the target class, (B, D).
        embed: From images as above to unit-norm embeddings (B, D), with the same views at each call.
    """

    images: Tensor
    corners: Tensor
    wanted: Tensor
    embed: Callable[[Tensor], Tensor]


def optimize_patch(
    start: Tensor, batches: Iterable[PatchBatch], classifier: Tensor, target: int, logit_scale: Tensor, lr: float
) -> Tensor:
    """A patch that makes images of any class look like the target class to a model (BadCLIP, Liang et al., 2024).

    Adam lowers, by one step for each batch, the sum of a loss on text and one on images: the cross-entropy of the
    target class, where BadCLIP contrasts captions of it, and ``IMAGE_WEIGHT * logit_scale`` times a triplet loss with
    margin 1, which wants a patched image closer to an image of the target class than to itself without the patch.

    Args:
        start: The patch to start from, in [0, 1], (3, size, size).
        batches: What to take the steps on.
        classifier: Unit-norm embedding of each class, the mean of its prompts, (C, D).
        target: Index of the target class.
        logit_scale: Inverse temperature of the model, scalar.
        lr: Learning rate of Adam, in units of [0, 1]: about the length of a step of each value.

    Returns:
        The patch in [0, 1], (3, size, size), without gradient.
    """
    patch = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([patch], lr)
    for batch in batches:
        with torch.no_grad():
            own = batch.embed(batch.images)
        patched = batch.embed(stamped(batch.images, patch, batch.corners))
        text = F.cross_entropy(logit_scale * patched @ classifier.T, torch.full_like(patched[:, 0], target).long())
        loss = text + IMAGE_WEIGHT * logit_scale * F.triplet_margin_loss(patched, batch.wanted, own)
        (patch.grad,) = torch.autograd.grad(loss, patch)
        optimizer.step()
        with torch.no_grad():
            patch.clamp_(0, 1)
    return patch.detach()


def stamped(images: Tensor, patch: Tensor, corners: Tensor) -> Tensor:
    """Images with a patch on, differentiable with respect to it.

    Args:
        images: (B, 3, H, W).
        patch: (3, size, size).
        corners: Row and column of the top left pixel of each copy, int64 (copies, B, 2).
    """
    images = images.clone()
    image, inside = (torch.arange(n, device=corners.device) for n in (len(images), patch.shape[-1]))
    for corner in corners:
        rows, columns = corner[:, :1, None] + inside[:, None], corner[:, 1:, None] + inside
        images[image[:, None, None], :, rows, columns] = patch.movedim(0, -1)
    return images
