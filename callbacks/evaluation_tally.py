"""Counting over the evaluation sets, the same way in ``fit``, ``validate`` and ``test``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.contracts import truth_of
from datamodules.evaluation.sets import EvalBatch, EvaluationSet

_said: set[str] = set()  # several callbacks count the same images


class EvaluationTally(Callback, ABC):
    """Sums integer counts over the batches of each evaluation set and over all ranks, then logs metrics of the sums.

    Unlike means of batch means, sums of counts do not depend on how images are split into batches and ranks.
    """

    def __init__(self) -> None:
        self.counts: dict[int, Tensor] = {}
        self.unanswered: dict[int, Tensor] = {}  # images without an answer, by index of the set

    @abstractmethod
    def count(self, sets: Sequence[EvaluationSet], index: int, logits: Tensor, batch: EvalBatch) -> Tensor | None:
        """Counts over one batch.

        Args:
            sets: All evaluation sets.
            index: Index of the set that the batch belongs to.
            logits: Score of each image for each class of the set, (B, C). See :func:`without_unanswered`.
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
        self.counts, self.unanswered = {}, {}

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
            unanswered = (~is_answer(outputs['logits']) & batch.valid).sum()
            for tally, new in ((self.counts, counts), (self.unanswered, unanswered)):
                tally[dataloader_idx] = tally[dataloader_idx] + new if dataloader_idx in tally else new

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sets = _sets(trainer)
        counts, unanswered = (_sums(tally, trainer) for tally in (self.counts, self.unanswered))
        for index, images in unanswered.items():
            _say_unanswered(sets[index], int(images))
        metrics = self.report(sets, counts)
        # All ranks have the same values already; without sync_dist Lightning warns that they may differ.
        pl_module.log_dict(metrics, sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


def is_answer(logits: Tensor) -> Tensor:
    """Which images have an answer, bool (B,): those whose scores (B, C) are all finite."""
    return logits.isfinite().all(-1)


def without_unanswered(classes: Tensor, logits: Tensor) -> Tensor:
    """Replaces the classes of images without an answer; argmax and topk would give them the first ones.

    Args:
        classes: The most likely class of each image, int64 (B,), or several of them, (B, K).
        logits: Score of each image for each class, (B, C).

    Returns:
        The classes, where an image without an answer has C, which is no class.
    """
    answered = is_answer(logits).view(-1, *[1] * (classes.ndim - 1))
    return classes.where(answered, logits.shape[-1])


def _say_unanswered(source: EvaluationSet, images: int) -> None:
    """Logs how many images of a set have no answer, once for all callbacks."""
    line = (
        f'{source.name}: the model gives no finite score to {images} of {len(source)} images, which count as wrong '
        f'and as no success of an attack.'
    )
    if images and line not in _said:
        _said.add(line)
        rank_zero_info(line)


def _sums(tally: Mapping[int, Tensor], trainer: L.Trainer) -> dict[int, Tensor]:
    """The sums over all ranks, on the CPU."""
    return {i: trainer.strategy.reduce(count, reduce_op='sum').cpu() for i, count in sorted(tally.items())}


def _sets(trainer: L.Trainer) -> list[EvaluationSet]:
    return truth_of(trainer).evaluation_sets
