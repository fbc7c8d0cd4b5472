"""Accuracy on several sets and its mean difference from one method: Table 2 of the SafeCLIP paper."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from callbacks.metric_names import PROBE_PREFIX, ZERO_SHOT_PREFIX
from experiments.published import published_accuracy
from experiments.results import Result, group_repetitions, last_values, star
from experiments.table_forms import Table
from experiments.tables import notes

TASKS = {'zero_shot': ZERO_SHOT_PREFIX, 'probe': PROBE_PREFIX}
FEWEST_SETS = 2  # that a mean difference is worth a table


def downstream_table(results: Sequence[Result], task: str, reference: str) -> Table:
    """A table with a row for each run, or all its repetitions, and one for each method of the paper.

    Args:
        results: The runs.
        task: ``zero_shot`` or ``probe``.
        reference: Label of the run that the mean difference is from.

    Returns:
        The table, whose last column is the mean over sets of the difference; empty if fewer than two sets were
        measured.
    """
    prefix, groups = TASKS[task], group_repetitions(results)
    sets = sorted(
        {metric.removeprefix(prefix) for run in results for metric in run.series if metric.startswith(prefix)}
    )
    head = [task.replace('_', '-'), *sets, f'mean difference from {reference}']
    if len(sets) < FEWEST_SETS:
        return Table.of([head])
    means = {label: [_mean(runs, prefix + name) for name in sets] for label, runs in groups.items()}
    rows = [
        [
            label + star(runs),
            *map(_format, means[label]),
            _difference(means[label], means[reference], label == reference),
        ]
        for label, runs in groups.items()
    ]
    theirs = published_accuracy(task, sets)
    return Table.of([head, *rows, *theirs], notes(rows, groups.values()), len(theirs))


def _mean(runs: Sequence[Result], metric: str) -> float | None:
    values = last_values(runs, metric)
    return fmean(values) if values else None


def _difference(ours: Sequence[float | None], theirs: Sequence[float | None], is_reference: bool) -> str:
    """Mean over the sets that both were measured on."""
    pairs = [(own, other) for own, other in zip(ours, theirs, strict=True) if own is not None and other is not None]
    return f'{fmean(own - other for own, other in pairs):+.3f}' if pairs and not is_reference else ''


def _format(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
