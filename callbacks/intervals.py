"""Confidence intervals of rates."""

from __future__ import annotations

import math
from statistics import NormalDist

from datamodules.usage_error import UsageError


def wilson_interval(hits: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a binomial rate (Wilson, 1927), which stays meaningful at rates of 0 and 1.

    Args:
        hits: Successes, from 0 to ``n``; a fraction of one where a trial succeeds in part.
        n: Trials.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        Lower and upper bound in [0, 1]; (0, 1) if there are no trials.

    Raises:
        UsageError: If ``hits`` is negative or larger than ``n``.
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
    return (low if hits else 0.0), (high if hits < n else 1.0)  # exact, where rounding would leave 1e-17
