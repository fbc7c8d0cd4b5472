"""Runs the model over the pairs for their similarities or their embeddings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from callbacks.measuring import measuring
from callbacks.shuffled_pairs import ShuffledPairs


def sweep(
    trainer: L.Trainer,
    module: L.LightningModule,
    loader: DataLoader[Any],
    rows: int,
    shuffled: ShuffledPairs | None = None,
) -> Tensor:
    """Measures the cosine similarity of every pair that a loader yields, by the module's ``predict_step``.

    The model is in evaluation mode meanwhile, and every random generator is restored afterwards, so that training
    continues as if nothing had happened. The precision is that of training; the similarity itself is float32.

    Args:
        trainer: The trainer. The loader of each process yields that process's share of the pairs.
        module: Its module, not the DDP wrapper: the forward pass needs nothing from the other processes.
        loader: Batches that ``predict_step`` turns into ``row`` (B,) and ``similarity`` (B,).
        rows: Number N of rows of the table.
        shuffled: Collects embeddings on the way, to compare pictures with the captions of other pairs.

    Returns:
        Similarity in [-1, 1] of each row, float32 (N,), on the CPU, the same on all processes; NaN for rows that no
        loader yields.
    """
    sums = RowSums(rows, module.device, torch.uint8)  # each row is seen once, or a few times
    with measuring(trainer, module):
        for output in _predict(trainer, module, loader):
            sums.add(output['row'], output['similarity'])
            if shuffled is not None:
                shuffled.add(output)
    return sums.mean(trainer)


class Embeddings(NamedTuple):
    """Embeddings of every pair, as arrays of shape (N, D); NaN in rows that were not swept.

    Attributes:
        image: Image embeddings.
        text: Caption embeddings.
    """

    image: np.ndarray
    text: np.ndarray


def embed_pairs(
    trainer: L.Trainer, module: L.LightningModule, loader: DataLoader[Any], rows: int, title: str = 'embed'
) -> Embeddings:
    """Embeds the pairs that a loader yields, in memory; meant for thousands of pairs, such as the held-out ones.

    The model and the random generators are treated as in :func:`sweep`. Each pair should occur in one batch only.

        embed_pairs(trainer, module, truth.heldout_dataloader(), len(truth.heldout))

    Args:
        trainer: The trainer. The loader of each process yields that process's share of the pairs.
        module: Its module. Its ``predict_step`` returns ``row`` (B,), ``image`` (B, D) and ``text`` (B, D).
        loader: Batches of pairs.
        rows: Number N of rows of their table.
        title: Name of the progress bar.

    Returns:
        The embeddings in float32, the same on all processes.
    """
    with measuring(trainer, module):
        outputs = list(_predict(trainer, module, loader, title))
    width = trainer.strategy.broadcast(outputs[0]['image'].shape[1] if outputs else 0)  # rank 0 always has pairs
    image, text = torch.zeros(2, rows, width, device=module.device)
    is_missing = torch.ones(rows, device=module.device)
    for output in outputs:
        image[output['row']], text[output['row']] = output['image'].float(), output['text'].float()
        is_missing[output['row']] = 0
    image, text, ranks_without = (trainer.strategy.reduce(x, reduce_op='sum') for x in (image, text, is_missing))
    is_unswept = (ranks_without == trainer.world_size)[:, None]
    return Embeddings(*(x.masked_fill(is_unswept, float('nan')).cpu().numpy() for x in (image, text)))


class RowSums:
    """Sum and count of the values seen so far for each row, on the device.

    Args:
        rows: Number N of rows.
        device: Device that the values come from.
        counts: Type of the counts. ``uint8`` saves memory where no row has more than 255 values over all processes.
    """

    def __init__(self, rows: int, device: torch.device, counts: torch.dtype = torch.float32) -> None:
        self.total, self.count = torch.zeros(rows, device=device), torch.zeros(rows, dtype=counts, device=device)

    def add(self, row: Tensor, value: Tensor) -> None:
        """Adds ``value`` (B,) to the rows ``row`` (B,), int64."""
        value = value.detach().float()
        self.total.index_add_(0, row, value)
        self.count.index_add_(0, row, torch.ones_like(value, dtype=self.count.dtype))

    def mean(self, trainer: L.Trainer) -> Tensor:
        """Mean over all processes, float32 (N,) on the CPU; NaN for rows that were never seen. The sums are lost."""
        total, count = (trainer.strategy.reduce(each, reduce_op='sum') for each in (self.total, self.count))
        mean: Tensor = total.div_(count).cpu()
        return mean


def _predict(
    trainer: L.Trainer, module: L.LightningModule, loader: DataLoader[Any], title: str = 'sweep'
) -> Iterator[Mapping[str, Tensor]]:
    """Yields the output of ``predict_step`` for each batch."""
    for index, batch in enumerate(_with_progress(trainer, loader, title)):
        yield module.predict_step(trainer.strategy.batch_to_device(batch), index)


def _with_progress(trainer: L.Trainer, loader: DataLoader[Any], title: str) -> Iterator[Any]:
    """Iterates over the batches, with a progress bar if Lightning shows one and the output is a terminal."""
    is_shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    disable = None if is_shown else True  # None: tqdm shows the bar on terminals only
    return iter(tqdm(loader, title, leave=False, position=1, dynamic_ncols=True, file=sys.stdout, disable=disable))
