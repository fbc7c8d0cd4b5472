"""Attack success rate: how often triggered or targeted images are classified as the attack intends.

A rate may be low for a bad reason: the model says the target class of hardly any image. So the recall of the target
class is measured beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from callbacks.evaluation_tally import EvaluationTally, without_unanswered
from callbacks.intervals import wilson_interval
from callbacks.metric_names import AsrQuantity, asr_metric
from datamodules.evaluation.sets import EvalBatch, EvaluationSet
from datamodules.usage_error import UsageError

MIN_ESTABLISHED_RATE = 0.5  # success without a defense from which on an attack counts as established
MIN_RECALL = 0.05  # of the target class; with less, a rate that is not high says little about the attack


class AttackSuccessRate(EvaluationTally):
    """Logs the attack success rate (ASR) of every attack and the rate that clean images would reach.

    ASR is the fraction of an attack's test images whose most likely class is the attack's target. Images that show
    the target class are excluded, because classifying them as such is correct. Logged for each attack:

    - ``asr/<attack>/rate``: the ASR;
    - ``asr/<attack>/hits`` and ``asr/<attack>/n``: images that count as a success, and all images that count;
    - ``asr/<attack>/low`` and ``asr/<attack>/high``: bounds of the rate's Wilson interval;
    - ``asr/<attack>/clean``: how often clean images of the same true classes are classified as the target, see
      :func:`clean_rate`. Measured on the first clean set with the same classes;
    - ``asr/<attack>/recall`` and ``asr/<attack>/recall_n``: how often clean images that do show the target class are
      classified as such, and how many there are, see :func:`target_recall`. Measured on the same set.

    Args:
        confidence: Coverage of the interval, in (0, 1).
    """

    def __init__(self, confidence: float = 0.95) -> None:
        super().__init__()
        if not 0 < confidence < 1:
            raise UsageError(f'callbacks.attack_success.confidence must lie between 0 and 1, got {confidence}.')
        self.confidence = confidence

    def count(self, sets: Sequence[EvaluationSet], index: int, logits: Tensor, batch: EvalBatch) -> Tensor | None:
        predicted = without_unanswered(logits.argmax(-1), logits)
        if sets[index].target is not None:
            counted = batch.valid & (batch.label != batch.target)
            return torch.stack([(counted & (predicted == batch.target)).sum(), counted.sum()])
        if any(clean_set_for(attack, sets) == index for attack in sets):
            known = batch.valid & (batch.label >= 0)
            classes = len(sets[index].classes) + 1  # the last one of the predictions stands for no answer
            return multiclass_confusion_matrix(predicted[known], batch.label[known], classes, validate_args=False)
        return None

    def report(self, sets: Sequence[EvaluationSet], counts: Mapping[int, Tensor]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for index, attack in enumerate(sets):
            if attack.target is not None and index in counts:
                hits, n = counts[index].tolist()
                quantities = measure_success(hits, n, self.confidence)
                clean = clean_set_for(attack, sets)
                if clean is not None and clean in counts:
                    quantities |= measure_clean(counts[clean], attack.label, attack.target)
                metrics |= {asr_metric(attack.name, what): value for what, value in quantities.items()}
        return metrics


def measure_success(hits: int, n: int, confidence: float = 0.95) -> dict[AsrQuantity, float]:
    """Rate, bounds and counts of an attack that succeeds on ``hits`` of ``n`` images."""
    low, high = wilson_interval(hits, n, confidence)
    rate: dict[AsrQuantity, float] = {'rate': hits / n} if n else {}
    return {**rate, 'low': low, 'high': high, 'hits': hits, 'n': n}


def measure_clean(matrix: Tensor, label: np.ndarray, target: np.ndarray) -> dict[AsrQuantity, float]:
    """Clean rate of an attack and recall of its target classes, as far as clean images tell; see :func:`clean_rate`."""
    rate, recall = clean_rate(matrix, label, target), target_recall(matrix, target)
    values: dict[AsrQuantity, float] = {} if math.isnan(rate) else {'clean': rate}
    return {**values, 'recall': recall.share, 'recall_n': recall.images} if recall.images else values


def clean_rate(matrix: Tensor, label: np.ndarray, target: np.ndarray) -> float:
    """Baseline of an attack: the success rate that it would reach on clean images.

    For each of the attack's images, this takes the rate at which clean images of its true class are classified as its
    target. If the true class is unknown, or has no clean images, the rate over all classes but the target is used.
    The result is the mean over the attack's images. For a backdoor that is tested on all classes but the target, this
    is the rate over all clean images outside the target class. For targeted poison, it is the mean over its pairs of
    true class and target.

    Args:
        matrix: Confusion matrix of a clean set, int64 (C + 1, C + 1), row = true class, column = prediction, of which
            the last one is no answer.
        label: True class of each of the attack's images, (N,), -1 where unknown.
        target: Class that the attack wants each image to be classified as, (N,).

    Returns:
        Rate in [0, 1]; NaN if there are no clean images to compare with, or if all images show their target class.
    """
    counts = matrix.double().numpy()
    label, target = label[label != target], target[label != target]
    images = counts.sum(1)
    has_clean_images = (label >= 0) & (images[label] > 0)  # label -1 reads the last entry; the first condition drops it
    mistaken_for_target = counts[:, target].sum(0) - counts[target, target]
    with np.errstate(invalid='ignore'):  # 0 / 0 is NaN, the documented result
        pooled = mistaken_for_target / (images.sum() - images[target])
        by_class = counts[label, target] / np.where(has_clean_images, images[label], 1)
        rates = np.where(has_clean_images, by_class, pooled)
    return float(rates.mean()) if len(rates) else math.nan


class Recall(NamedTuple):
    """How often a model says the target classes of an attack where they are right.

    Attributes:
        share: Mean over the target classes, in [0, 1]; NaN without images.
        images: Clean images that show a target class.
    """

    share: float
    images: int


def target_recall(matrix: Tensor, target: np.ndarray) -> Recall:
    """Recall of an attack's target classes on clean images; classes that no image shows are left out.

    Args:
        matrix: Confusion matrix of a clean set, as for :func:`clean_rate`.
        target: Class that the attack wants each of its images to be classified as, (N,).
    """
    images, right = matrix.sum(1).numpy(), matrix.diagonal().numpy()
    shown = [int(name) for name in np.unique(target) if images[name]]
    shares = right[shown] / images[shown]
    return Recall(float(shares.mean()) if shown else math.nan, int(images[shown].sum()))


def is_unsaid(rate: float, recall: float) -> bool:
    """Whether a rate says little because the model hardly ever says the target class, even where it is right.

    Args:
        rate: Success of the attack. From ``MIN_ESTABLISHED_RATE`` on, the attack works all the same.
        recall: Recall of the target class; NaN if it was not measured.
    """
    return rate < MIN_ESTABLISHED_RATE and recall < MIN_RECALL


def clean_set_for(attack: EvaluationSet, sets: Sequence[EvaluationSet]) -> int | None:
    """Index of the first clean set with the attack's classes; ``None`` if there is none, or if ``attack`` is clean."""
    if attack.target is None:
        return None
    clean = (i for i, other in enumerate(sets) if other.target is None and other.classes == attack.classes)
    return next(clean, None)
