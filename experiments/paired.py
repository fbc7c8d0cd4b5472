"""How much methods differ over the same seeds.

Runs with the same seeds share pairs, poisons and test images, so what differs from seed to seed alone is no part of
their differences. The interval is that of trainings, which Wilson's interval of images knows nothing of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.special import stdtrit

from callbacks.metric_names import asr_metric
from experiments.results import Result, attacks_in
from experiments.table_forms import Table
from experiments.tables import row_label

Seeds = tuple[int | None, int]  # of data and of training
NOTE = (
    'Each cell is a mean difference over the same seeds with the 95 % interval of a paired t-test, which knows how '
    'much trainings differ, not how few images each was measured on; one that holds 0 shows no difference.'
)


class Difference(NamedTuple):
    """A mean difference over seeds, the ends of its interval, and how many seeds there were."""

    mean: float
    low: float
    high: float
    seeds: int


def paired_difference(
    ours: Mapping[Seeds, float], theirs: Mapping[Seeds, float], confidence: float = 0.95
) -> Difference | None:
    """Mean of ``ours - theirs`` over the seeds of both, with the interval of a paired t-test.

    Args:
        ours: A value for each run of one method.
        theirs: A value for each run of the other.
        confidence: Coverage of the interval, in (0, 1), if differences are normally distributed over seeds.

    Returns:
        The difference; ``None`` with fewer than two seeds in common, which say nothing about others.
    """
    differences = [value - theirs[seeds] for seeds, value in ours.items() if seeds in theirs]
    if len(differences) < 2:
        return None
    quantile = float(stdtrit(len(differences) - 1, (1 + confidence) / 2))
    mean, half = fmean(differences), quantile * stdev(differences) / math.sqrt(len(differences))
    return Difference(mean, mean - half, mean + half, len(differences))


def difference_table(cells: Mapping[str, Mapping[str, Sequence[Result]]], reference: str | None) -> Table:
    """A table of how much accuracy, and the success of each attack, differ from those of one method.

    Args:
        cells: Set of attacks -> method -> runs, repetitions with other seeds. Those that are not whole are left out.
        reference: The method that the others are compared with.

    Returns:
        The table; empty if no method shares two seeds with the reference.
    """
    methods = list(dict.fromkeys(method for runs in cells.values() for method in runs if method != reference))
    rows = [[f'difference from {reference}', 'seeds', *methods]]
    for attack_set, runs_of in cells.items():
        attacks = attacks_in(run for runs in runs_of.values() for run in runs)
        labels = {row_label(attack, attack_set, len(attacks) == 1): asr_metric(attack, 'rate') for attack in attacks}
        for label, metric in {**labels, row_label('zero-shot accuracy', attack_set): None}.items():
            values = {method: _values(runs, metric) for method, runs in runs_of.items()}
            found = [paired_difference(values.get(method, {}), values.get(reference or '', {})) for method in methods]
            if seeds := sorted({each.seeds for each in found if each}):
                rows.append([label, ' to '.join(map(str, seeds)), *map(_format, found)])
    kept = [0, 1, *(column for column in range(2, len(rows[0])) if any(row[column] != '-' for row in rows[1:]))]
    return Table.of([[row[column] for column in kept] for row in rows], [NOTE])


def _values(runs: Sequence[Result], metric: str | None) -> dict[Seeds, float]:
    """Latest value of a metric, or of zero-shot accuracy, by the seeds of whole runs."""
    latest = {(run.data_seed, run.seed): run.last(metric or run.accuracy_metric) for run in runs if not run.caveat}
    return {seeds: value for seeds, value in latest.items() if value is not None}


def _format(difference: Difference | None) -> str:
    if difference is None:
        return '-'
    low, high = max(-1.0, difference.low), min(1.0, difference.high)  # rates cannot differ by more
    return f'{difference.mean:+.3f} [{low:+.3f}, {high:+.3f}]'
