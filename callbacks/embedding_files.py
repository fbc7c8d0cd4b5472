"""Embeddings of the pairs that ``predict`` runs over, in files beside its ledger."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import lightning as L
import numpy as np
from torch import Tensor

from datamodules.files.atomic import write_atomically
from datamodules.rows.embeddings import IMAGE_FILE, TEXT_FILE
from datamodules.usage_error import UsageError

FILES = {'image': IMAGE_FILE, 'text': TEXT_FILE}  # outputs of `predict_step`, one file each
CHUNK_ROWS = 32_768  # rows filled at once; 34 MB in 512 dimensions


class EmbeddingFiles:
    """Two files of float16 embeddings, (N, D), NaN in rows that were not embedded. Each process writes its own rows.

    The files get their names when they are closed, so a killed ``predict`` leaves those of an earlier one.

    Args:
        trainer: The trainer. All processes must see the same folder.
        folder: Folder of the files; created if it is missing.
        pairs: Number N of rows. Rows from there on, which are canaries, are left out.
        width: Dimensions D of an embedding.

    Raises:
        UsageError: If the folder cannot be written, its disk has too little space, or the processes run on several
            machines.
    """

    def __init__(self, trainer: L.Trainer, folder: Path, pairs: int, width: int) -> None:
        if trainer.num_nodes > 1:  # a network file system would write whole pages, with old values of others' rows
            raise UsageError(
                'callbacks.ledger.embeddings=true needs all processes on one machine: set trainer.num_nodes=1.'
            )
        self.trainer, self.pairs = trainer, pairs
        with ExitStack() as created:
            paths = self._create(created, folder, width) if trainer.is_global_zero else {}
            self._renaming = created.pop_all()
        paths = trainer.strategy.broadcast(paths)
        self._arrays = {output: np.load(path, mmap_mode='r+') for output, path in paths.items()}

    def _create(self, created: ExitStack, folder: Path, width: int) -> dict[str, Path]:
        """Creates the files under temporary names, which they lose when the stack is closed."""
        paths = {output: created.enter_context(write_atomically(folder / name)) for output, name in FILES.items()}
        for temporary in paths.values():
            fill_with_nan(temporary, self.pairs, width)
        return paths

    def add(self, output: Mapping[str, Tensor]) -> None:
        """Writes the embeddings of a batch, the output of ``predict_step``."""
        row = output['row'].cpu().numpy()
        is_pair = row < self.pairs
        for name, array in self._arrays.items():
            array[row[is_pair]] = output[name].float().cpu().numpy()[is_pair]

    def close(self) -> None:
        """Writes what is still in memory to disk, and renames the files once all processes have done so."""
        for array in self._arrays.values():
            array.flush()
        self._arrays = {}
        self.trainer.strategy.barrier('embeddings are written')
        self._renaming.close()


def fill_with_nan(temporary: Path, rows: int, width: int) -> None:
    """Writes an ``.npy``, and not through a memory map, which would end the process with SIGBUS on a full disk."""
    header = {'descr': np.lib.format.dtype_to_descr(np.dtype(np.float16)), 'fortran_order': False}
    with temporary.open('xb') as file:
        np.lib.format.write_array_header_1_0(file, {**header, 'shape': (rows, width)})
        for start in range(0, rows, CHUNK_ROWS):
            file.write(np.full((min(CHUNK_ROWS, rows - start), width), np.nan, np.float16).tobytes())
