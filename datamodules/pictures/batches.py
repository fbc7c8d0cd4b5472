"""Turns a draw of rows into a batch of pictures and tokens: what a worker does, kept cheap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.pictures.cache import DecodedPictures, Pictures, read_pictures
from datamodules.rows.partition import Draw
from datamodules.rows.table import PairTable

CLEAN = -1
_CLEAN = -1  # in place of the number of an overlay


class PairBatch(NamedTuple):
    """One batch of pairs.

    Attributes:
        image: uint8 (B, 3, h, w) from the worker; on the device float (V, B, 3, H, W), V normalized views.
        tokens: Tokens of V views of each caption, int64 (V, B, T).
        row: Row of each pair in the table, int64 (B,).
        cross_modal: The first ``cross_modal`` pairs are trained across modalities, the others within each.
        epoch: Epoch that the views are drawn for; ``CLEAN`` for pictures and captions as they are.
    """

    image: Tensor
    tokens: Tensor
    row: Tensor
    cross_modal: int
    epoch: int


class CaptionViews(Protocol):
    """Rewrites a caption; the key alone, (seed, epoch, row, view), decides how."""

    def __call__(self, caption: str, *, key: tuple[int, ...]) -> str: ...


class Tokenizer(Protocol):
    """Caption -> token ids (T,), padded with zeros."""

    def __call__(self, caption: str) -> np.ndarray: ...


class OverlaidPictures:
    """Pictures by row: clean ones from cache or file, others laid over them.

    Args:
        clean: uint8 (n, 3, h, w) of the clean table, or the decoder of its files.
        rows: Rows of the whole table.
        overlays: Rows, int64 (P,), and their pictures, uint8 (P, 3, h, w), such as poisons with their trigger on. Of
            overlays that share a row the later one wins. Every row from n on must be in one.
    """

    def __init__(self, clean: Pictures, rows: int, overlays: Sequence[tuple[np.ndarray, np.ndarray]] = ()) -> None:
        self.clean, self.pictures = clean, [pictures for _, pictures in overlays]
        self.overlay = np.full(rows, _CLEAN, np.int16)  # the overlay that a row's picture is in
        self.position = np.zeros(rows, np.int32)  # and where in it
        for number, (overlaid, _) in enumerate(overlays):
            self.overlay[overlaid] = number
            self.position[overlaid] = np.arange(len(overlaid))
        size = (clean.size, clean.size) if isinstance(clean, DecodedPictures) else clean.shape[2:]
        self.shape = (3, *size)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Pictures of some rows, uint8 (B, 3, h, w)."""
        overlay = self.overlay[rows]
        images = np.empty((len(rows), *self.shape), np.uint8)
        images[overlay == _CLEAN] = read_pictures(self.clean, rows[overlay == _CLEAN])
        for number in np.unique(overlay[overlay != _CLEAN]):
            images[overlay == number] = self.pictures[number][self.position[rows[overlay == number]]]
        return images

    def is_overlaid(self, row: int) -> bool:
        """Whether a row's picture is not the clean one."""
        return bool(self.overlay[row] != _CLEAN)


class PairDataset(Dataset[PairBatch]):
    """Maps a draw of rows to its batch: pictures as stored, captions rewritten.

    Args:
        table: The pairs, poisons included.
        images: Their pictures.
        tokenizer: Turns captions into tokens.
        tokens: Tokens of the captions as they stand, (N, T).
        caption_views: Rewrites captions: one for all views, or one for each; further views take turns. ``None`` takes
            captions as they stand.
        views: Views of a pair by the side of the epoch that it is on, see ``CLIP.sides``.
        seed: Seed of the run.
        epoch: Epoch, counted from 0; ``CLEAN`` rewrites nothing.
    """

    def __init__(
        self,
        table: PairTable,
        images: OverlaidPictures,
        tokenizer: Tokenizer,
        tokens: np.ndarray,
        caption_views: Sequence[CaptionViews | None],
        views: dict[str, int],
        seed: int,
        epoch: int,
    ) -> None:
        self.table, self.images, self.tokenizer, self.tokens = table, images, tokenizer, tokens
        self.caption_views, self.views, self.seed, self.epoch = caption_views, views, seed, epoch

    def __getitem__(self, draw: Draw) -> PairBatch:
        rows, cross_modal = draw
        has_pairs = {'cross_modal': cross_modal > 0, 'within_modal': cross_modal < len(rows)}
        views = max(self.views[side] for side in has_pairs if has_pairs[side])
        image, tokens = torch.from_numpy(self.images(rows)), torch.from_numpy(self._tokenize_views(rows, views))
        return PairBatch(image, tokens, torch.from_numpy(rows), cross_modal, self.epoch)

    def _tokenize_views(self, rows: np.ndarray, views: int) -> np.ndarray:
        """Tokens of each view of each caption, int64 (V, B, T)."""
        return np.stack([self._tokenize_view(rows, view) for view in range(views)])

    def _tokenize_view(self, rows: np.ndarray, view: int) -> np.ndarray:
        """Tokens of one view of each caption, int64 (B, T)."""
        rewrite = self.caption_views[view % len(self.caption_views)]
        if rewrite is None or self.epoch == CLEAN:
            return self.tokens[rows].astype(np.int64)
        pairs = zip(self.table.captions(rows), rows.tolist(), strict=True)
        captions = (rewrite(caption, key=(self.seed, self.epoch, row, view)) for caption, row in pairs)
        return np.stack([self.tokenizer(caption) for caption in captions]).astype(np.int64)
