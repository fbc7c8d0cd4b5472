"""Whether a split can be trusted, judged by the mismatched pairs that it would call safe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from callbacks.mismatches import SPREAD

OnDistrust = Literal['stop', 'unimodal', 'go_on']
REMEDY = (
    'Train on more pairs or for more epochs, start from pretrained weights (model.pretrained), lengthen the slow phase '
    '(model.extra_slow_epochs), or let a smaller split be found (callbacks.repartition.size=calibrated, min_fraction)'
)
JUDGED_BY = {  # metric to what passes, in words, and how many times the bound it may be
    'partition/null_leak': ('shuffled pairs', 1.0),
    'canary/evident_leak': ('the pairs of two canaries, at least,', SPREAD),
}


def doubt_about(leaks: Mapping[str, float], name: str, bound: float) -> str:
    """Why a split cannot be trusted, in words; empty if it can.

    Args:
        leaks: Leaks of the split by metric.
        name: Name of the bound.
        bound: Largest share of shuffled pairs on the safe side of a split that can be trusted; of canaries, it is
            :data:`SPREAD` times as large.
    """
    excesses = [
        f'{leaks[metric]:.1%} of {what} would count as safe'
        for metric, (what, times) in JUDGED_BY.items()
        if leaks.get(metric, 0.0) > times * bound
    ]
    if excesses:
        return f'{" and ".join(excesses)} ({name}={bound:g})'
    return 'no two captions look different to the model' if leaks.get('partition/null_compared') == 0 else ''
