"""Zero-shot accuracy: how often the most similar class prompt names the true class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from callbacks.evaluation_tally import EvaluationTally, without_unanswered
from callbacks.metric_names import zero_shot_metric, zero_shot_top5_metric
from datamodules.evaluation.sets import EvalBatch, EvaluationSet, Metric

TOP_GUESSES = 5
MIN_CLASSES_FOR_TOP5 = 11  # with ten classes, five guesses are right half of the time by chance


class ZeroShot(EvaluationTally):
    """Logs the zero-shot classification accuracy on every clean set, over the images whose class is known.

    Accuracy is the share of right answers over all images or, for a set with ``metric: mean_per_class``, the mean of
    the shares of its classes.

    - ``zero_shot/<set>``: top-1 accuracy;
    - ``zero_shot_top5/<set>``: top-5 accuracy, for sets with more than ten classes.
    """

    def count(self, sets: Sequence[EvaluationSet], index: int, logits: Tensor, batch: EvalBatch) -> Tensor | None:
        """Images of each class whose first guess is right, of which one of five is, and all, int64 (3, C)."""
        if sets[index].target is not None:
            return None
        known = batch.valid & (batch.label >= 0)
        best = logits.topk(min(TOP_GUESSES, logits.shape[-1])).indices
        right = (without_unanswered(best, logits) == batch.label[:, None]) & known[:, None]
        counted = (right[:, 0], right.any(1), known)
        return torch.stack([torch.bincount(batch.label[each], minlength=logits.shape[-1]) for each in counted])

    def report(self, sets: Sequence[EvaluationSet], counts: Mapping[int, Tensor]) -> dict[str, float]:
        metrics = {}
        for index, (right_first, right_in_five, images) in counts.items():
            source = sets[index]
            if images.any():
                metrics[zero_shot_metric(source.name)] = accuracy(right_first, images, source.metric)
            if images.any() and len(source.classes) >= MIN_CLASSES_FOR_TOP5:
                metrics[zero_shot_top5_metric(source.name)] = accuracy(right_in_five, images, source.metric)
        return metrics


def accuracy(right: Tensor, images: Tensor, metric: Metric) -> float:
    """Accuracy from counts of each class; classes without images do not count.

    Args:
        right: Images with a right answer, int64 (C,).
        images: All images, int64 (C,), not all 0.
        metric: Share of all images, or the mean of the shares of the classes.

    Example:
        >>> right, images = torch.tensor([1, 8, 0]), torch.tensor([2, 8, 0])
        >>> accuracy(right, images, 'accuracy'), accuracy(right, images, 'mean_per_class')
        (0.9, 0.75)
    """
    if metric == 'accuracy':
        return int(right.sum()) / int(images.sum())
    shown = images > 0
    return float((right[shown].double() / images[shown]).mean())
