"""From a draw of rows to a batch of pictures and tokens: what a worker does, kept cheap."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.pictures.cache import Pictures, read
from datamodules.rows.partition import Draw
from datamodules.rows.table import PairTable

CLEAN = -1


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


class PairImages:
    """Pictures by row: the clean ones from cache or file, the poisoned ones over them.

    Args:
        clean: uint8 (n, 3, h, w) of the clean table, or the decoder of its files.
        poisoned: uint8 (P, 3, h, w), pictures with their trigger on.
        poisoned_rows: Row of each of them, int64 (P,); rows from n on are appended.
        rows: Rows of the whole table.
    """

    def __init__(self, clean: Pictures, poisoned: np.ndarray, poisoned_rows: np.ndarray, rows: int) -> None:
        self.clean, self.poisoned = clean, poisoned
        self.place = np.full(rows, -1, np.int32)  # of a row among the poisoned pictures
        self.place[poisoned_rows] = np.arange(len(poisoned_rows))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Pictures of some rows, uint8 (B, 3, h, w)."""
        place = self.place[rows]
        images = np.empty((len(rows), *self.poisoned.shape[1:]), np.uint8)
        images[place >= 0] = self.poisoned[place[place >= 0]]
        images[place < 0] = read(self.clean, rows[place < 0])
        return images


class PairDataset(Dataset[PairBatch]):
    """A draw of rows -> the batch, pictures untouched and captions rewritten.

    Args:
        table: The pairs, poisons included.
        images: Their pictures.
        tokenizer: Turns captions into tokens.
        tokens: Tokens of the captions as they stand, (N, T).
        caption_views: Rewrites captions; ``None`` takes them as they stand.
        views: Views of a pair by the side of the epoch that it is on, see ``CLIP.sides``.
        seed: Seed of the run.
        epoch: Epoch, counted from 0; ``CLEAN`` rewrites nothing.
    """

    def __init__(
        self,
        table: PairTable,
        images: PairImages,
        tokenizer: Tokenizer,
        tokens: np.ndarray,
        caption_views: CaptionViews | None,
        views: dict[str, int],
        seed: int,
        epoch: int,
    ) -> None:
        self.table, self.images, self.tokenizer, self.tokens = table, images, tokenizer, tokens
        self.caption_views, self.views, self.seed, self.epoch = caption_views, views, seed, epoch

    def __getitem__(self, draw: Draw) -> PairBatch:
        rows, cross_modal = draw
        present = (cross_modal > 0, 'cross_modal'), (cross_modal < len(rows), 'within_modal')
        views = max(self.views[side] for there, side in present if there)
        image, tokens = torch.from_numpy(self.images(rows)), torch.from_numpy(self._tokens(rows, views))
        return PairBatch(image, tokens, torch.from_numpy(rows), cross_modal, self.epoch)

    def _tokens(self, rows: np.ndarray, views: int) -> np.ndarray:
        """Tokens of each view of each caption, int64 (V, B, T)."""
        if self.caption_views is None or self.epoch == CLEAN:
            return np.repeat(self.tokens[rows][None].astype(np.int64), views, axis=0)
        captions, keys = self.table.captions(rows), rows.tolist()
        return np.stack([
            np.stack([self._rewritten(c, row, view) for c, row in zip(captions, keys, strict=True)])
            for view in range(views)
        ]).astype(np.int64)  # fmt: skip

    def _rewritten(self, caption: str, row: int, view: int) -> np.ndarray:
        assert self.caption_views is not None
        return self.tokenizer(self.caption_views(caption, key=(self.seed, self.epoch, row, view)))
