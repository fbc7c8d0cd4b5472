"""Counting over the evaluation sets, the same way in ``fit``, ``validate`` and ``test``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from datamodules.contracts import truth_of
from datamodules.evaluation.sets import EvalBatch, EvaluationSet


class EvaluationTally(Callback, ABC):
    """Sums integer counts over the batches of each evaluation set and over all ranks, then logs metrics of the sums.

    Unlike means of batch means, sums of counts do not depend on how images are split into batches and ranks.
    """

    def __init__(self) -> None:
        self.counts: dict[int, Tensor] = {}

    @abstractmethod
    def count(self, sets: Sequence[EvaluationSet], index: int, logits: Tensor, batch: EvalBatch) -> Tensor | None:
        """Counts over one batch.

        Args:
            sets: All evaluation sets.
            index: Index of the set that the batch belongs to.
            logits: Score of each image for each class of the set, (B, C).
            batch: Images, labels and targets, and a mask of the images that are not padding.

        Returns:
            Integers to be summed, of the same shape for each batch of a set; ``None`` to ignore the set.
        """

    @abstractmethod
    def report(self, sets: Sequence[EvaluationSet], counts: Mapping[int, Tensor]) -> dict[str, float]:
        """Metrics by name.

        Args:
            sets: All evaluation sets.
            counts: Index of a set -> sums over the whole set, on the CPU.
        """

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.counts = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        counts = self.count(_sets(trainer), dataloader_idx, outputs['logits'], batch)
        if counts is not None:
            before = self.counts.get(dataloader_idx)
            self.counts[dataloader_idx] = counts if before is None else before + counts

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sums = {i: trainer.strategy.reduce(count, reduce_op='sum') for i, count in sorted(self.counts.items())}
        metrics = self.report(_sets(trainer), {i: total.cpu() for i, total in sums.items()})
        # All ranks have the same values already; without sync_dist Lightning warns that they may differ.
        pl_module.log_dict(metrics, sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


def _sets(trainer: L.Trainer) -> list[EvaluationSet]:
    return truth_of(trainer).evaluation_sets
