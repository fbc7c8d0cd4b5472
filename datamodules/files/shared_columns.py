"""Columns of a run, such as the sides of its pairs, in memory that all its processes on a machine have in common."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor

from datamodules.files.atomic import reserve_space

MIN_SHARED_BYTES = 1 << 26  # smaller columns stay in the memory of each process
Columns = Mapping[str, tuple[float, torch.dtype]]  # value to begin with, and type


def share_columns(folder: Path, rows: int, columns: Columns, trainer: L.Trainer | None) -> dict[str, Tensor] | None:
    """Columns that the processes of a machine map from one file; ``None`` if they are small.

    What one process writes, all of them read. The file loses its name at once and vanishes with the last of the
    processes, however that ends; until then the system may write to it what it needs memory for.

    Args:
        folder: Folder of the file.
        rows: Length of the columns.
        columns: The columns by name, the largest type first.
        trainer: Knows the other processes, all of which must call this; ``None`` if there is none.

    Raises:
        UsageError: If the disk has too little space.
    """
    size = rows * sum(dtype.itemsize for _, dtype in columns.values())
    if size < MIN_SHARED_BYTES:
        return None
    name = f'columns-{secrets.token_hex(8)}'
    path = folder / (name if trainer is None else f'{trainer.strategy.broadcast(name)}-{trainer.node_rank}')
    is_first = trainer is None or trainer.local_rank == 0
    if is_first:
        folder.mkdir(parents=True, exist_ok=True)
        reserve_space(path, size, path)
        for column, (fill, _) in zip(_map(path, rows, columns), columns.values(), strict=True):
            column.fill_(fill)
    _wait(trainer)
    mapped = dict(zip(columns, _map(path, rows, columns), strict=True))
    _wait(trainer)
    if is_first:
        path.unlink()
    return mapped


def _map(path: Path, rows: int, columns: Columns) -> Iterator[Tensor]:
    offset = 0
    for _, dtype in columns.values():
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        yield torch.from_numpy(np.memmap(path, kind, 'r+', offset, (rows,)))
        offset += rows * kind.itemsize


def _wait(trainer: L.Trainer | None) -> None:
    if trainer is not None:
        trainer.strategy.barrier('columns are shared')
