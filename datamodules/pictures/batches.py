"""Turns a draw of rows into a batch of pictures and tokens. Runs in loader workers, so it does as little as it can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.pictures.cache import Pictures, read_pictures
from datamodules.rows.partition import Draw
from datamodules.rows.table import PairTable
from datamodules.text.caption_views import CaptionViews

CLEAN = -1
STORED = -2
_NO_OVERLAY = -1


class PairBatch(NamedTuple):
    """One batch of pairs.

    Attributes:
        image: Stored pictures from the worker, uint8 (B, 3, h, w); normalized views on the device, float
            (V, B, 3, H, W).
        tokens: Tokens of V views of each caption, int64 (V, B, T).
        row: Row of each pair in the table, int64 (B,).
        cross_modal: Number of pairs, at the start of the batch, that are trained across modalities. The others are
            trained within each modality.
        epoch: Epoch that the views are drawn for; ``CLEAN`` for pictures and captions without augmentation, ``STORED``
            for pictures that stay as they are stored.
    """

    image: Tensor
    tokens: Tensor
    row: Tensor
    cross_modal: int
    epoch: int


class Tokenizer(Protocol):
    """Maps a caption to token ids (T,), padded with zeros."""

    def __call__(self, caption: str) -> np.ndarray: ...


class OverlaidPictures:
    """Pictures by row: clean pictures from cache or file, some of them replaced by others, such as poisons.

    Args:
        clean: Pictures of the clean table, uint8 (n, 3, h, w), or the decoder of its files.
        overlays: Each overlay is rows, int64 (P,), and the pictures that replace theirs, uint8 (P, 3, h, w). If several
            overlays hold a row, the last one wins. Every row from n on must be in an overlay.
    """

    def __init__(self, clean: Pictures, overlays: Sequence[tuple[np.ndarray, np.ndarray]] = ()) -> None:
        self.clean, self.pictures = clean, [pictures for _, pictures in overlays]
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in overlays)])
        number = np.repeat(np.arange(len(overlays)), [len(rows) for rows, _ in overlays])
        position = np.concatenate([np.empty(0, np.int64), *(np.arange(len(rows)) for rows, _ in overlays)])
        found, from_end = np.unique(rows[::-1], return_index=True)
        last = len(rows) - 1 - from_end
        self._rows = np.append(found, np.iinfo(np.int64).max)  # ends in what no row is
        self._overlay = np.append(number[last], _NO_OVERLAY)  # number of the overlay that holds a row's picture
        self._position = np.append(position[last], 0)  # of the picture in that overlay
        self.shape = clean.shape[1:] if isinstance(clean, np.ndarray) else (3, clean.size, clean.size)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Pictures of some rows, uint8 (B, 3, h, w)."""
        overlay, position = self._find(rows)
        images = np.empty((len(rows), *self.shape), np.uint8)
        images[overlay == _NO_OVERLAY] = read_pictures(self.clean, rows[overlay == _NO_OVERLAY])
        for number in np.unique(overlay[overlay != _NO_OVERLAY]):
            images[overlay == number] = self.pictures[number][position[overlay == number]]
        return images

    def is_overlaid(self, row: int) -> bool:
        """Whether an overlay holds a row's picture."""
        return bool(self._find(np.array([row]))[0][0] != _NO_OVERLAY)

    def _find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The overlay that holds the picture of each row, and the picture's position in it."""
        place = np.searchsorted(self._rows, rows)
        return np.where(self._rows[place] == rows, self._overlay[place], _NO_OVERLAY), self._position[place]


class PairDataset(Dataset[PairBatch]):
    """Maps a draw of rows to a batch of stored pictures and tokens of rewritten captions.

    Args:
        table: The pairs, including poisons.
        images: Their pictures.
        tokenizer: Turns captions into tokens.
        tokens: Tokens of the original captions, (N, T).
        caption_views: Rewriters of captions: one for all views, or one for each; if there are more views, they take
            turns. ``None`` leaves captions unchanged.
        views: Number of views of a pair on each side of the epoch, as ``CLIP.sides`` returns it.
        seed: Seed of the run.
        epoch: Epoch, counted from 0; ``CLEAN`` and ``STORED`` leave captions unchanged.
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
        rows, cross_modal = draw[0].astype(np.int64, copy=False), draw.cross_modal
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
        if rewrite is None or self.epoch in (CLEAN, STORED):
            return self.tokens[rows].astype(np.int64)
        pairs = zip(self.table.captions(rows), rows.tolist(), strict=True)
        captions = (rewrite(caption, key=(self.seed, self.epoch, row, view)) for caption, row in pairs)
        return np.stack([self.tokenizer(caption) for caption in captions]).astype(np.int64)
