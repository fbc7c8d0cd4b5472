"""Zero-shot accuracy: how often the most similar class prompt names the true class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from callbacks.evaluation_tally import EvaluationTally, without_unanswered
from callbacks.metric_names import zero_shot_metric, zero_shot_top5_metric
from datamodules.evaluation.sets import EvalBatch, EvaluationSet

TOP_GUESSES = 5
MIN_CLASSES_FOR_TOP5 = 11  # with ten classes, five guesses are right half of the time by chance


class ZeroShot(EvaluationTally):
    """Logs the zero-shot classification accuracy on every clean set, over the images whose class is known.

    - ``zero_shot/<set>``: top-1 accuracy;
    - ``zero_shot_top5/<set>``: top-5 accuracy, for sets with more than ten classes.
    """

    def count(self, sets: Sequence[EvaluationSet], index: int, logits: Tensor, batch: EvalBatch) -> Tensor | None:
        if sets[index].target is not None:
            return None
        known = batch.valid & (batch.label >= 0)
        best = logits.topk(min(TOP_GUESSES, logits.shape[-1])).indices
        right = (without_unanswered(best, logits) == batch.label[:, None]) & known[:, None]
        return torch.stack([right[:, 0].sum(), right.sum(), known.sum()])

    def report(self, sets: Sequence[EvaluationSet], counts: Mapping[int, Tensor]) -> dict[str, float]:
        metrics = {}
        for index, count in counts.items():
            right_first, right_in_five, images = count.tolist()
            if images:
                metrics[zero_shot_metric(sets[index].name)] = right_first / images
            if images and len(sets[index].classes) >= MIN_CLASSES_FOR_TOP5:
                metrics[zero_shot_top5_metric(sets[index].name)] = right_in_five / images
        return metrics
