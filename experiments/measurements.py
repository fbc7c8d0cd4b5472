"""What a model was measured to reach, as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import SupportsFloat

from callbacks.attack_success import is_unsaid
from callbacks.metric_names import asr_metric, parse_asr_metric


def describe_measurements(metrics: Mapping[str, SupportsFloat]) -> str:
    """One line for each number, by its name, and one for each attack whose success says little."""
    width = max(map(len, metrics), default=0)
    lines = [f'  {name:<{width}}  {float(metrics[name]):.4g}' for name in sorted(metrics)]
    reasons = {attack: why_success_says_little(attack, metrics) for attack in measured_attacks(metrics)}
    return '\n'.join([*lines, *(f'{attack}: {reason}.' for attack, reason in reasons.items() if reason)])


def measured_attacks(metrics: Mapping[str, SupportsFloat]) -> list[str]:
    """Attacks with a rate of success, in the order of the metrics."""
    return [name.attack for name in map(parse_asr_metric, metrics) if name and name.what == 'rate']


def why_success_says_little(attack: str, metrics: Mapping[str, SupportsFloat]) -> str:
    """That an attack's success is low because the model hardly ever says the target class; empty if it is not."""
    rate, recall, n = (
        float(metrics.get(asr_metric(attack, what), math.nan)) for what in ('rate', 'recall', 'recall_n')
    )
    if not is_unsaid(rate, recall):
        return ''
    return f'the target class is recognized in {recall:.1%} of its {n:.0f} clean pictures, so low success proves little'
