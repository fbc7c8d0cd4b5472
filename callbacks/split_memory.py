"""Similarities averaged over splits, so that one noisy epoch does not reverse a good ranking."""

from __future__ import annotations

import torch
from torch import Tensor


def average_with_earlier(latest: Tensor, known: Tensor, earlier: Tensor | None, memory: float) -> tuple[Tensor, Tensor]:
    """Averages similarities with those of earlier splits, on the scale of the latest.

    Args:
        latest: Similarities of this split, (N,); NaN where unknown.
        known: Those that define the scale by their mean and standard deviation.
        earlier: The second result of the split before, (N,) or shorter; what it lacks starts with the latest.
        memory: Weight of the earlier splits, in [0, 1).

    Returns:
        The average on the scale of the latest, (N,), and the same standardized, to pass on.
    """
    mean, deviation = known.mean(), known.std().clamp(min=1e-12)
    standardized = (latest - mean) / deviation
    previous = standardized if earlier is None else earlier
    if len(previous) < len(standardized):  # from a checkpoint of a release without shuffled pairs
        previous = torch.cat([previous, standardized[len(previous) :]])
    average = memory * previous + (1 - memory) * standardized
    remembered = torch.where(average.isfinite(), average, standardized)
    return mean + deviation * remembered, remembered
