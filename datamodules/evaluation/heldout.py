"""Held-out pairs of images and captions, for metrics that need both, such as retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from datamodules.pictures.batches import CLEAN, OverlaidPictures, PairBatch, PairDataset
from datamodules.pictures.cache import Pictures
from datamodules.rows.partition import Draw
from datamodules.rows.table import PairTable
from datamodules.text.token_cache import AnyTokenizer, stored_tokens


def heldout_loader(
    table: PairTable, pictures: Pictures, rows: np.ndarray, tokenizer: AnyTokenizer, cache_dir: Path, batch_size: int
) -> DataLoader[PairBatch]:
    """Builds a loader of held-out pairs, without augmentation, in order.

    Args:
        table: All held-out pairs.
        pictures: Their stored pictures, uint8 (M, 3, h, w).
        rows: Rows of the table to read, int64.
        tokenizer: Turns captions into tokens.
        cache_dir: Folder of the caches; the tokens are cached there.
        batch_size: Pairs in a batch.
    """
    tokens = stored_tokens(table, tokenizer, cache_dir)
    images = OverlaidPictures(pictures, len(table))
    pairs = PairDataset(table, images, tokenizer, tokens, (None,), {'cross_modal': 1}, seed=0, epoch=CLEAN)
    parts = np.array_split(rows, -(-len(rows) // batch_size)) if len(rows) else []
    draws: Any = [Draw(part, len(part)) for part in parts]
    return DataLoader(pairs, sampler=draws, batch_size=None)
