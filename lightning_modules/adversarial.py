"""Images optimized against a model: projected gradient ascent, and the trigger patch of BadCLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.clip import attention

Norm = Literal['linf', 'l2']
IMAGE_WEIGHT = 5.0  # weight of the image loss over the logit scale; BadCLIP's code has 500, at a scale of 100


def pgd(
    images: Tensor, loss: Callable[[Tensor], Tensor], radius: float, step: float, steps: int, norm: Norm = 'linf'
) -> Tensor:
    """Changes images slightly to raise a loss, by projected gradient ascent from the images (Madry et al., 2018).

    Args:
        images: Images in [0, 1], (B, 3, H, W).
        loss: Loss to raise: maps images to one value each, or to their sum. An image's value must not depend on the
            other images.
        radius: Largest change of an image, in units of [0, 1]: of each value with ``linf``, in Euclidean length with
            ``l2``.
        step: Length of a step, in the same norm.
        steps: Number of steps; 0 returns the images unchanged.
        norm: Norm that bounds the change.

    Returns:
        Images in [0, 1] within ``radius`` of the given ones, (B, 3, H, W), without gradient.
    """
    images = images.detach()
    adversarial = images.clone()
    for _ in range(steps):
        gradient = pixel_gradient(loss(adversarial.requires_grad_()).sum(), adversarial)
        direction = gradient.sign() if norm == 'linf' else F.normalize(gradient.flatten(1)).view_as(gradient)
        change = adversarial.detach() + step * direction - images
        change = change.clamp(-radius, radius) if norm == 'linf' else change.renorm(2, 0, radius)
        adversarial = (images + change).clamp(0, 1)  # stays in the ball, because the images are in range
    return adversarial


class PatchBatch(NamedTuple):
    """Input of one step of :func:`optimize_patch`.

    Attributes:
        images: Images of other classes in [0, 1], (B, 3, h, w).
        corners: Row and column of the top left pixel of each copy of the patch, int64 (copies, B, 2).
        positives: Unit-norm embeddings of images of the target class, (B, D).
        embed: Maps such images to unit-norm embeddings (B, D), with the same views at each call.
    """

    images: Tensor
    corners: Tensor
    positives: Tensor
    embed: Callable[[Tensor], Tensor]


def optimize_patch(
    start: Tensor, batches: Iterable[PatchBatch], classifier: Tensor, target: int, logit_scale: Tensor, lr: float
) -> Tensor:
    """Optimizes a patch that makes a model take images of any class for the target class (BadCLIP, Liang et al., 2024).

    Adam takes one step on each batch, on the sum of two losses. The text loss is the cross-entropy of the target class;
    BadCLIP contrasts captions of the class instead. The image loss is ``IMAGE_WEIGHT * logit_scale`` times a triplet
    loss with margin 1, which pulls a patched image towards an image of the target class and away from itself without
    the patch.

    Args:
        start: The patch to start from, in [0, 1], (3, size, size).
        batches: One batch for each step.
        classifier: Unit-norm embedding of each class, the mean of its prompts, (C, D).
        target: Index of the target class.
        logit_scale: Inverse temperature of the model, scalar.
        lr: Learning rate of Adam, in units of [0, 1]: roughly how far each value moves in a step.

    Returns:
        The patch in [0, 1], (3, size, size), without gradient.
    """
    patch = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([patch], lr)
    for batch in batches:
        with torch.no_grad():
            unpatched = batch.embed(batch.images)
        patched = batch.embed(paste_patch(batch.images, patch, batch.corners))
        text = F.cross_entropy(logit_scale * patched @ classifier.T, torch.full_like(patched[:, 0], target).long())
        loss = text + IMAGE_WEIGHT * logit_scale * F.triplet_margin_loss(patched, batch.positives, unpatched)
        patch.grad = pixel_gradient(loss, patch)
        optimizer.step()
        with torch.no_grad():
            patch.clamp_(0, 1)
    return patch.detach()


def pixel_gradient(loss: Tensor, pixels: Tensor) -> Tensor:
    """Gradient of a scalar that the model has computed, with respect to pixels."""
    with attention(pixels.device):  # as the model's own backward pass, for what it recomputes
        return torch.autograd.grad(loss, pixels)[0]


def paste_patch(images: Tensor, patch: Tensor, corners: Tensor) -> Tensor:
    """Pastes a patch onto images, differentiably with respect to the patch.

    Args:
        images: (B, 3, H, W).
        patch: (3, size, size), or a patch for each image, (B, 3, size, size).
        corners: Row and column of the top left pixel of each copy, int64 (copies, B, 2).
    """
    images = images.clone()
    number, offset = (torch.arange(n, device=corners.device) for n in (len(images), patch.shape[-1]))
    for corner in corners:
        rows, columns = corner[:, :1, None] + offset[:, None], corner[:, 1:, None] + offset
        images[number[:, None, None], :, rows, columns] = patch.movedim(-3, -1)
    return images
