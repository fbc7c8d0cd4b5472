"""Turns batches of stored pictures into normalized views, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.pictures.augment import CleanView, ImageViews, normalize
from datamodules.pictures.batches import CLEAN, PairBatch
from datamodules.text.caption_views import CaptionViews
from datamodules.usage_error import UsageError

Makers = tuple[ImageViews, ...]  # one for all views, or one for each
Rewriters = tuple[CaptionViews | None, ...]  # the same for captions; `None` leaves them unchanged


def as_makers(image_views: ImageViews | Sequence[ImageViews] | None) -> Makers:
    """Converts the argument ``data.image_views`` to a tuple: one maker for all views, or one for each view.

    Raises:
        UsageError: If the list is empty.
    """
    if image_views is None:
        return (CleanView(),)
    makers = tuple(image_views) if isinstance(image_views, Sequence) else (image_views,)
    if not makers:
        raise UsageError('data.image_views is an empty list: name a class for each view, or null for clean views.')
    return makers


def as_rewriters(caption_views: CaptionViews | Sequence[CaptionViews | None] | None) -> Rewriters:
    """Converts the argument ``data.caption_views`` to a tuple: one rewriter for all views, or one for each view.

    Raises:
        UsageError: If the list is empty.
    """
    if not isinstance(caption_views, Sequence):
        return (caption_views,)
    if not caption_views:
        raise UsageError('data.caption_views is an empty list: name a class or null for each view, or null for all.')
    return tuple(caption_views)


def check_views(makers: Makers | Rewriters, views: int, argument: str) -> None:
    """Checks that there is one entry for all views of an epoch, or one for each.

    Args:
        makers: Makers of image views, or rewriters of captions.
        views: Number of views that an epoch trains on.
        argument: Name of the argument that lists them, for the message.

    Raises:
        UsageError: If the list has another length.
    """
    if len(makers) not in (1, views):
        raise UsageError(
            f'{argument} has {len(makers)} entries, but some epochs train on {views} view{"s" * (views != 1)}: '
            f'list one for each view of every epoch, see model.views, or give one for all.'
        )


def make_views(batch: PairBatch, makers: Makers, size: int, seed: int) -> Tensor:
    """Makes the normalized views of a batch, float (V, B, 3, H, W).

    Args:
        batch: Stored pictures, uint8 (B, 3, h, w), and tokens of V views.
        makers: One for all views, or one for each; if there are more views, the makers take turns. Not used for a clean
            batch.
        size: Side H of a view in pixels.
        seed: Seed of the run. Each view is drawn from the seed, the epoch, the row and the number of the view.
    """
    clean = CleanView()
    views = torch.empty(len(batch.tokens), len(batch.image), 3, size, size, device=batch.image.device)
    for view, out in enumerate(views):
        maker = clean if batch.epoch == CLEAN else makers[view % len(makers)]
        normalize(maker(batch.image, batch.row, size, seed=seed, epoch=batch.epoch, view=view), out)
    return views


def clean_view(image: Tensor, size: int) -> Tensor:
    """Resizes and normalizes stored pictures (B, 3, h, w) without augmentation: float (B, 3, size, size)."""
    rows = torch.zeros(len(image), dtype=torch.int64, device=image.device)  # not used, as nothing is drawn at random
    return normalize(CleanView()(image, rows, size, seed=0, epoch=CLEAN, view=0))
