"""Learning rate schedules as pure functions of the optimizer steps taken so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim.lr_scheduler import LambdaLR

Plan = Literal['global', 'restart_at_mixed']


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Fraction of the peak, in [0, 1]: a linear rise over ``warmup`` steps, then half a cosine to 0 at ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def auto_warmup(total: int) -> int:
    """A tenth of the steps, at most 10,000; the constant of the released code is longer than a whole run on COCO."""
    return min(10_000, total // 10)


def auto_slow_factor(steps: int) -> float:
    """Learning rate of a slow phase of ``steps`` steps, as a fraction of the peak.

    How well the phase separates poisons depends on how far the weights move, that is on steps x rate. So the fraction
    is 10 / steps, but at least the paper's 0.01 and at most 0.3, above which poisons start to be learned.
    """
    return min(max(10 / max(1, steps), 0.01), 0.3)


@dataclass(frozen=True)
class Schedule:
    """Learning rate at each step of a run with a slow phase, as a fraction of the peak.

    Attributes:
        before: Steps before the slow phase.
        slow: Steps of the slow phase, at a constant rate; the plan is paused meanwhile.
        after: Steps after the slow phase.
        slow_factor: Learning rate of the slow phase as a fraction of the peak.
        warmup: Steps of linear warm-up; ``None`` for :func:`auto_warmup`.
        plan: ``global``: one warm-up and one cosine over all steps except the slow ones. ``restart_at_mixed``: the
            phases before and after the slow one have a warm-up and a cosine each.
        extended: Steps after the slow phase that keep its rate. The plan is not paused meanwhile, so the rest of the
            schedule stays as it was.
    """

    before: int
    slow: int
    after: int
    slow_factor: float = 1.0
    warmup: int | None = None
    plan: Plan = 'global'
    extended: int = 0

    def __call__(self, step: int) -> float:
        if self.before <= step < self.before + self.slow + self.extended:
            return self.slow_factor
        if self.plan == 'global':
            return self._warmup_cosine(step if step < self.before else step - self.slow, self.before + self.after)
        if step < self.before:
            return self._warmup_cosine(step, self.before)
        return self._warmup_cosine(step - self.before - self.slow, self.after)

    def _warmup_cosine(self, step: int, total: int) -> float:
        return warmup_cosine(step, auto_warmup(total) if self.warmup is None else self.warmup, total)


def restart_from_peaks(scheduler: Any) -> None:
    """Sets the learning rates that a schedule gives at its present step to the peaks that the optimizer is set to.

    Args:
        scheduler: The scheduler. Only ``LambdaLR``, which multiplies the peaks, is changed.
    """
    if isinstance(scheduler, LambdaLR):
        groups = scheduler.optimizer.param_groups
        scheduler.base_lrs = [group['initial_lr'] for group in groups]
        for group, peak, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group['lr'] = peak * factor(scheduler.last_epoch)
