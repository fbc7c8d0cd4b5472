"""Attack success rate: how often triggered or targeted images are taken for what the attack wants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from callbacks.evaluation_tally import EvaluationTally
from datamodules.evaluation.sets import EvalBatch, EvaluationSet
from datamodules.usage_error import UsageError


class AttackSuccessRate(EvaluationTally):
    """Logs the attack success rate (ASR) of every attack, with what it would be without the attack.

    ASR is the fraction of an attack's test images whose most likely class is the attack's target. Images that show
    the target class are left out: calling them by their name is no success. Logged for each attack:

    - ``asr/<attack>``: the rate; ``_hits`` and ``_n``: images counted as success, and in all;
    - ``_low``, ``_high``: Wilson interval of the rate;
    - ``_clean``: how often clean images of the same true classes are taken for the target anyway, see
      :func:`clean_rate`, measured on the first clean set with the same classes.

    Args:
        confidence: Probability that the interval covers, in (0, 1).
    """

    def __init__(self, confidence: float = 0.95) -> None:
        super().__init__()
        if not 0 < confidence < 1:
            raise UsageError(f'callbacks.attack_success.confidence must lie between 0 and 1, got {confidence}.')
        self.confidence = confidence

    def count(self, sets: Sequence[EvaluationSet], index: int, logits: Tensor, batch: EvalBatch) -> Tensor | None:
        predicted = logits.argmax(-1)
        if sets[index].target is not None:
            counted = batch.valid & (batch.label != batch.target)
            return torch.stack([(counted & (predicted == batch.target)).sum(), counted.sum()])
        if any(clean_set_for(attack, sets) == index for attack in sets):
            known = batch.valid & (batch.label >= 0)
            classes = len(sets[index].classes)
            return multiclass_confusion_matrix(predicted[known], batch.label[known], classes, validate_args=False)
        return None

    def report(self, sets: Sequence[EvaluationSet], counts: Mapping[int, Tensor]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for index, attack in enumerate(sets):
            if attack.target is not None and index in counts:
                hits, n = counts[index].tolist()
                metrics |= self._rates(f'asr/{attack.name}', hits, n)
                clean = clean_set_for(attack, sets)
                matrix = None if clean is None else counts.get(clean)
                rate = math.nan if matrix is None else clean_rate(matrix, attack.label, attack.target)
                metrics |= {} if math.isnan(rate) else {f'asr/{attack.name}_clean': rate}
        return metrics

    def _rates(self, name: str, hits: int, n: int) -> dict[str, float]:
        low, high = wilson_interval(hits, n, self.confidence)
        rate = {name: hits / n} if n else {}
        return {**rate, f'{name}_low': low, f'{name}_high': high, f'{name}_hits': hits, f'{name}_n': n}


def wilson_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a binomial rate (Wilson, 1927); honest where the rate is 0 or 1.

    Args:
        hits: Successes, from 0 to ``n``.
        n: Trials.
        confidence: Probability that the interval covers, in (0, 1).

    Returns:
        Lower and upper end in [0, 1]; (0, 1) without any trial.

    Raises:
        UsageError: If there are more hits than trials, or fewer than none.
    """
    if not 0 <= hits <= n:
        raise UsageError(f'hits must lie between 0 and n={n}, got {hits}.')
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, extra = hits / n, z * z / n
    center = rate + extra / 2
    spread = z * math.sqrt(rate * (1 - rate) / n + extra / (4 * n))
    low, high = (center - spread) / (1 + extra), (center + spread) / (1 + extra)
    return (low if hits else 0.0), (high if hits < n else 1.0)  # exactly, where rounding would leave 1e-17


def clean_rate(matrix: Tensor, label: np.ndarray, target: np.ndarray) -> float:
    """How often clean images would count as a success of an attack that they have nothing to do with.

    For each of the attack's images the rate at which clean images of its true class are taken for its target; where
    the true class is unknown, or has no clean image, the rate over all classes but the target. The mean over the
    attack's images: of a backdoor, tested on all classes but the target, that is the rate over all clean images but
    the target's; of targeted poison it is the mean over its pairs of true class and target.

    Args:
        matrix: Confusion matrix of a clean set, int64 (C, C), row = true class, column = prediction.
        label: True class of each of the attack's images, (N,), -1 where unknown.
        target: Class that the attack wants for it, (N,).

    Returns:
        Rate in [0, 1]; NaN if there is no clean image to tell from, or no image that is not of its target class.
    """
    counts = matrix.double().numpy()
    label, target = label[label != target], target[label != target]
    images = counts.sum(1)
    own = (label >= 0) & (images[label] > 0)  # label -1 reads the last entry, which the first condition rules out
    others = counts[:, target].sum(0) - counts[target, target]
    with np.errstate(invalid='ignore'):  # 0 / 0 is NaN, which is what there is to say
        pooled = others / (images.sum() - images[target])
        rates = np.where(own, counts[label, target] / np.where(own, images[label], 1), pooled)
    return float(rates.mean()) if len(rates) else math.nan


def clean_set_for(attack: EvaluationSet, sets: Sequence[EvaluationSet]) -> int | None:
    """Index of the first clean set with the same classes; ``None`` for a clean set, or if there is no such set."""
    if attack.target is None:
        return None
    clean = (i for i, other in enumerate(sets) if other.target is None and other.classes == attack.classes)
    return next(clean, None)
