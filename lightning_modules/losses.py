"""Contrastive losses as plain functions of embeddings, usable without the modules of this package."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.usage_error import UsageError
from lightning_modules.tiled_cross_entropy import tiled_cross_entropy
from lightning_modules.tiles import tiles

Direction = Literal['symmetric', 'view_rows', 'nn_rows']


def one_way(
    anchor: Tensor, candidate: Tensor, logit_scale: Tensor, first: int = 0, tile_size: int | None = None
) -> Tensor:
    """Cross-entropy of picking each anchor's positive among all candidates.

        L = -1/b * sum_j log softmax_k(s * a_j . c_k)_(first + j)

    Args:
        anchor: Unit-norm rows of this process, (b, D).
        candidate: Unit-norm rows of all processes, (B, D); row ``first + j`` is the positive of anchor j.
        logit_scale: Inverse temperature s > 0, scalar; the factor itself, not its logarithm.
        first: Index of this process's first row among the candidates.
        tile_size: Anchors whose logits are in memory at a time. The loss and its gradient are the same, but have no
            gradient of their own. Defaults to all of them up to 8,192 anchors and candidates, and beyond to as many
            as make 2^24 logits.

    Returns:
        Mean loss in nats, scalar; log B if the embeddings carry no information.

    Raises:
        UsageError: If ``tile_size`` is below 1.
    """
    parts = tiles(len(anchor), len(candidate), tile_size)
    if len(parts) > 1:
        return tiled_cross_entropy(anchor, candidate, logit_scale, first, parts)
    logits = logit_scale * anchor @ candidate.T  # (b, B)
    return F.cross_entropy(logits, torch.arange(first, first + len(anchor), device=logits.device))


def info_nce(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    all_image: Tensor | None = None,
    all_text: Tensor | None = None,
    first: int = 0,
    tile_size: int | None = None,
) -> Tensor:
    """CLIP's symmetric loss between images and their own captions (Radford et al., 2021; Eq. 1 of SafeCLIP).

    Args:
        image: Unit-norm image embeddings of this process, (b, D).
        text: Unit-norm caption embeddings of this process, (b, D), row-aligned with ``image``.
        logit_scale: Inverse temperature, scalar.
        all_image: Image embeddings of all processes, (B, D), gathered with gradient; ``image`` itself if ``None``.
        all_text: Caption embeddings of all processes, (B, D); ``text`` itself if ``None``.
        first: Index of this process's first row among the gathered ones.
        tile_size: As for :func:`one_way`.

    Returns:
        Mean loss in nats, scalar.

    Raises:
        UsageError: If images and captions differ in shape, for example because only one of them was gathered.
    """
    if image.shape != text.shape:
        raise UsageError(
            f'info_nce needs one caption per image, got images {tuple(image.shape)} and captions '
            f'{tuple(text.shape)}; gather both across ranks or neither.'
        )
    to_text = one_way(image, text if all_text is None else all_text, logit_scale, first, tile_size)
    to_image = one_way(text, image if all_image is None else all_image, logit_scale, first, tile_size)
    return (to_text + to_image) / 2


def nearest_neighbor_loss(
    view: Tensor,
    neighbor: Tensor,
    logit_scale: Tensor,
    direction: Direction = 'symmetric',
    all_view: Tensor | None = None,
    all_neighbor: Tensor | None = None,
    first: int = 0,
    tile_size: int | None = None,
) -> Tensor:
    """Pulls one view of an example towards the nearest neighbor of its other view (Eq. 2; NNCLR, Dwibedi et al., 2021).

    Args:
        view: Unit-norm embeddings of one view, (b, D), with gradient.
        neighbor: Unit-norm pool rows nearest to the other view, (b, D), without gradient; or the other view itself.
        logit_scale: Inverse temperature, scalar.
        direction: Anchor of the loss: ``nn_rows`` takes the neighbors, as in the paper, ``view_rows`` the views, as in
            the released code, ``symmetric`` the mean of both.
        all_view: Views of all processes, (B, D), gathered with gradient; ``view`` itself if ``None``.
        all_neighbor: Neighbors of all processes, (B, D); ``neighbor`` itself if ``None``.
        first: Index of this process's first row among the gathered ones.
        tile_size: As for :func:`one_way`.

    Returns:
        Mean loss in nats, scalar.
    """
    all_view = view if all_view is None else all_view
    all_neighbor = neighbor if all_neighbor is None else all_neighbor
    if direction == 'view_rows':
        return one_way(view, all_neighbor, logit_scale, first, tile_size)
    if direction == 'nn_rows':
        return one_way(neighbor, all_view, logit_scale, first, tile_size)
    return info_nce(view, neighbor, logit_scale, all_view, all_neighbor, first, tile_size)
