"""Embeddings of the pairs that ``predict`` runs over, in files beside its ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning as L
import numpy as np
from torch import Tensor

from callbacks.sweep import fill_with_nan
from datamodules.files.atomic import write_atomically
from datamodules.rows.embeddings import IMAGE_FILE, TEXT_FILE

FILES = {'image': IMAGE_FILE, 'text': TEXT_FILE}  # outputs of `predict_step`, one file each


class EmbeddingFiles:
    """Two files of float16 embeddings, (N, D), NaN in rows that were not embedded. Each process writes its own rows.

    Args:
        trainer: The trainer. All processes must see the same folder.
        folder: Folder of the files; created if it is missing.
        pairs: Number N of rows. Rows from there on, which are canaries, are left out.
        width: Dimensions D of an embedding.

    Raises:
        UsageError: If the folder cannot be written, or its disk has too little space.
    """

    def __init__(self, trainer: L.Trainer, folder: Path, pairs: int, width: int) -> None:
        self.pairs = pairs
        if trainer.is_global_zero:
            for name in FILES.values():
                with write_atomically(folder / name) as temporary:
                    fill_with_nan(temporary, (pairs, width), np.dtype(np.float16))
        trainer.strategy.barrier('files exist')
        self._arrays = {output: np.load(folder / name, mmap_mode='r+') for output, name in FILES.items()}

    def add(self, output: Mapping[str, Tensor]) -> None:
        """Writes the embeddings of a batch, the output of ``predict_step``."""
        row = output['row'].cpu().numpy()
        is_pair = row < self.pairs
        for name, array in self._arrays.items():
            array[row[is_pair]] = output[name].float().cpu().numpy()[is_pair]

    def close(self) -> None:
        """Writes what is still in memory to disk."""
        for array in self._arrays.values():
            array.flush()
        self._arrays = {}
