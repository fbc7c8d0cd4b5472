"""Zero-shot accuracy: how often the most similar class prompt names the right class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from callbacks.evaluation_tally import EvaluationTally
from datamodules.evaluation.sets import EvalBatch, EvaluationSet

TOP = 5
FEWEST_FOR_TOP = 11  # classes; with ten, five guesses are right half of the time by chance


class ZeroShot(EvaluationTally):
    """Logs the accuracy of zero-shot classification on every clean set, over the images whose class is known.

    ``zero_shot/<set>`` is top-1, ``zero_shot/<set>_top5`` top-5, the latter only where there are more than ten classes.
    """

    def count(self, sets: Sequence[EvaluationSet], index: int, logits: Tensor, batch: EvalBatch) -> Tensor | None:
        if sets[index].target is not None:
            return None
        known = batch.valid & (batch.label >= 0)
        best = logits.topk(min(TOP, logits.shape[-1])).indices  # (B, 5), best first
        right = (best == batch.label[:, None]) & known[:, None]
        return torch.stack([right[:, 0].sum(), right.sum(), known.sum()])

    def report(self, sets: Sequence[EvaluationSet], counts: Mapping[int, Tensor]) -> dict[str, float]:
        metrics = {}
        for index, count in counts.items():
            first, among_five, images = count.tolist()
            if images:
                metrics[f'zero_shot/{sets[index].name}'] = first / images
            if images and len(sets[index].classes) >= FEWEST_FOR_TOP:
                metrics[f'zero_shot/{sets[index].name}_top5'] = among_five / images
        return metrics
