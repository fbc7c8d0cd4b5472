"""Learning rates as pure functions of the optimizer steps really taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Plan = Literal['global', 'restart_at_mixed']


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Linear rise over ``warmup`` steps, then half a cosine to 0 at ``total``; factor of the peak, in [0, 1]."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def auto_warmup(total: int) -> int:
    """A tenth of the steps, at most 10,000: the released constant outlasts whole runs on COCO."""
    return min(10_000, total // 10)


def auto_slow_factor(steps: int) -> float:
    """Slow learning rate over the peak, for a slow phase of ``steps``.

    What separates poisons is how far the weights move, steps x rate: 10 / steps, no less than the paper's
    0.01 and no more than 0.3, from where poisons begin to be learned.
    """
    return min(max(10 / max(1, steps), 0.01), 0.3)


@dataclass(frozen=True)
class Schedule:
    """Factor of the peak learning rate at every step of a run whose phases follow each other.

    Attributes:
        before: Steps ahead of the slow phase.
        slow: Steps of the slow phase, at a constant rate; the plan stands still meanwhile.
        after: Steps behind it.
        slow_factor: Rate of the slow phase over the peak.
        warmup: Steps of the linear rise; ``None`` for :func:`auto_warmup`.
        plan: ``global``: one rise and one cosine over all steps but the slow ones. ``restart_at_mixed``: the phases
            before and behind the slow one each have their own.
    """

    before: int
    slow: int
    after: int
    slow_factor: float = 1.0
    warmup: int | None = None
    plan: Plan = 'global'

    def __call__(self, step: int) -> float:
        if self.before <= step < self.before + self.slow:
            return self.slow_factor
        if self.plan == 'global':
            return self._rise_and_fall(step if step < self.before else step - self.slow, self.before + self.after)
        if step < self.before:
            return self._rise_and_fall(step, self.before)
        return self._rise_and_fall(step - self.before - self.slow, self.after)

    def _rise_and_fall(self, step: int, total: int) -> float:
        return warmup_cosine(step, auto_warmup(total) if self.warmup is None else self.warmup, total)
