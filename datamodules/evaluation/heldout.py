"""Held-out pairs of images and captions, for metrics that need both, such as retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader

from datamodules.files.reading import clean_captions, require_folder
from datamodules.pictures.batches import CLEAN, OverlaidPictures, PairBatch, PairDataset
from datamodules.pictures.cache import Pictures
from datamodules.pictures.images import FolderImages
from datamodules.rows.partition import Draw
from datamodules.rows.table import PairTable
from datamodules.text.token_cache import AnyTokenizer, stored_tokens
from datamodules.usage_error import UsageError


class HeldoutSet(NamedTuple):
    """Pairs outside the training set.

    Attributes:
        table: The pairs.
        pictures: Their stored pictures, uint8 (M, 3, h, w).
        rows: Rows of the table that can be measured on, ascending, int64: the others are unreadable, or attacks use
            their pictures.
    """

    table: PairTable
    pictures: Pictures
    rows: np.ndarray


def read_published(folder: str, argument: str) -> PairTable:
    """Reads the pictures and captions of a folder that ``clipward protect`` has written, in any of its layouts.

    A picture that was published once for each caption, with noise of its own each time, is read once, with the first
    noise and all captions. Else each copy would be a wrong answer to the captions of the others.

    Args:
        folder: The folder.
        argument: Name of the argument that gave it, for messages.

    Raises:
        UsageError: If it is none.
    """
    root, columns = require_folder(folder, argument), ['image', 'source', 'protected_caption']
    try:
        pairs = pq.read_table(root / 'manifest.parquet', columns=columns).cast(
            pa.schema((x, 'string') for x in columns)
        )
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UsageError(
            f'{argument}={folder!r} holds no manifest.parquet of protected pairs: give a folder that clipward protect '
            f'has written.'
        ) from error
    _, first, number = np.unique(pairs['source'].to_numpy(), return_index=True, return_inverse=True)
    image = pairs['image'].take(pa.array(first[number]))
    return PairTable(image, clean_captions(pairs['protected_caption']), opener=FolderImages(root))


def heldout_loader(
    heldout: HeldoutSet, rows: np.ndarray, tokenizer: AnyTokenizer, cache_dir: Path, batch_size: int
) -> DataLoader[PairBatch]:
    """Builds a loader of held-out pairs, without augmentation, in order.

    Args:
        heldout: All held-out pairs.
        rows: Rows of the table to read, int64.
        tokenizer: Turns captions into tokens.
        cache_dir: Folder of the caches; the tokens are cached there.
        batch_size: Pairs in a batch.
    """
    table = heldout.table
    tokens = stored_tokens(table, tokenizer, cache_dir)
    images = OverlaidPictures(heldout.pictures)
    pairs = PairDataset(table, images, tokenizer, tokens, (None,), {'cross_modal': 1}, seed=0, epoch=CLEAN)
    parts = np.array_split(rows, -(-len(rows) // batch_size)) if len(rows) else []
    draws: Any = [Draw(part, len(part)) for part in parts]
    return DataLoader(pairs, sampler=draws, batch_size=None)
