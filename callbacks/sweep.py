"""How similar image and caption of every pair are: measured in a sweep, or remembered from training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.usage_error import UsageError


@torch.no_grad()  # not inference_mode: pools and prototypes made here may be trained with later
def sweep(trainer: L.Trainer, module: L.LightningModule, loader: DataLoader[Any], rows: int) -> Tensor:
    """Cosine similarity of every pair that a loader yields, by the module's ``predict_step``.

    The model is in evaluation mode meanwhile and every random generator is put back afterwards, so that training
    goes on as if nothing had happened. Precision is that of training, the similarity itself float32.

    Args:
        trainer: The trainer; each process has a loader of its own share.
        module: Its module, not the wrapped one: nothing in the forward pass needs the other processes.
        loader: Batches that ``predict_step`` turns into ``row`` (B,) and ``similarity`` (B,).
        rows: Number N of rows of the table.

    Returns:
        Similarity in [-1, 1] of each row, float32 (N,), on the CPU, the same on all processes; NaN for rows that no
        loader has.
    """
    agree_on_batch_norm(trainer, module)
    found = RowSums(rows, module.device)
    with isolate_rng(), evaluating(module), trainer.strategy.precision_plugin.forward_context():
        for index, batch in enumerate(_with_progress(trainer, loader)):
            answer = module.predict_step(trainer.strategy.batch_to_device(batch), index)
            found.add(answer['row'], answer['similarity'])
    return found.mean(trainer)


class RowSums:
    """Sum and number of the values seen of each row, on the device.

    Args:
        rows: Number N of rows.
        device: Where values come from.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, rows, device=device)

    def add(self, row: Tensor, value: Tensor) -> None:
        """Takes in ``value`` (B,) of ``row`` (B,), int64."""
        value = value.detach().float()
        self.sums.index_add_(1, row, torch.stack([value, torch.ones_like(value)]))

    def mean(self, trainer: L.Trainer) -> Tensor:
        """Mean over all processes, float32 (N,) on the CPU; NaN for rows that were never seen."""
        sums: Tensor = trainer.strategy.reduce(self.sums, reduce_op='sum')
        total, count = sums.cpu()
        mean: Tensor = total / count
        return mean


class RunningSimilarity:
    """Moving average, over epochs, of the similarities that training computes anyway: costs no sweep.

    They belong to augmented views, and to weights that moved during the epoch.

    Args:
        momentum: Weight of the average so far when an epoch's similarity comes in, in [0, 1).

    Attributes:
        average: Of each row, float32 (N,); NaN until first seen. ``None`` before the first epoch.
    """

    def __init__(self, momentum: float) -> None:
        if not 0 <= momentum < 1:
            raise UsageError(f'callbacks.repartition.momentum must lie in [0, 1), got {momentum}.')
        self.momentum = momentum
        self.average: Tensor | None = None
        self._epoch: RowSums | None = None

    def begin_epoch(self, rows: int, device: torch.device) -> None:
        """Forgets what an interrupted epoch has left."""
        self._epoch = RowSums(rows, device)

    def add(self, row: Tensor, similarity: Tensor) -> None:
        """Takes in the pairs of one step, (B,) each."""
        if self._epoch is not None:
            self._epoch.add(row, similarity)

    def end_epoch(self, trainer: L.Trainer) -> None:
        """Moves the average of every row that was seen, on any process."""
        if self._epoch is None:
            return
        seen = self._epoch.mean(trainer)
        before = torch.full_like(seen, float('nan')) if self.average is None else self.average
        moved = self.momentum * before + (1 - self.momentum) * seen
        self.average = torch.where(seen.isnan(), before, torch.where(before.isnan(), seen, moved))
        self._epoch = None


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each submodule is in the mode that it was in, frozen ones included."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def agree_on_batch_norm(trainer: L.Trainer, module: torch.nn.Module) -> None:
    """Gives all processes the running statistics of the first.

    DDP does so only at the start of a training step, so after the last one of an epoch the same picture has a
    different embedding on each process.
    """
    if trainer.world_size == 1:
        return
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            for buffer in part.buffers(recurse=False):
                torch.distributed.broadcast(buffer, 0)


def _with_progress(trainer: L.Trainer, loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches, under a bar of their own on a terminal where Lightning draws one too."""
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    hidden = None if shown else True  # None leaves it to whether the output is a terminal
    return iter(tqdm(loader, 'sweep', leave=False, position=1, dynamic_ncols=True, file=sys.stdout, disable=hidden))
