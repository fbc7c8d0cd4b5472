"""What training costs over another run: Table 8 of the SafeCLIP paper and its table of overheads.

A view counts whatever is embedded: an epoch with two augmented views of each pair takes longer than one with a single
view, whether or not a method is to blame. So each cost is given twice, per epoch and per augmented view of a pair.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from callbacks.metric_names import EPOCH_SECONDS, MIXTURE_SECONDS, SWEEP_SECONDS, VIEWS, parse_phase
from datamodules.usage_error import UsageError
from experiments.published import MARK, published
from experiments.results import Result, group_repetitions, star
from experiments.table_forms import Table
from experiments.tables import notes

NOTE = 'Seconds depend on the machine and on what else it does: compare runs that were made side by side.'


class Part(NamedTuple):
    """What a run does again and again, such as the epochs of a phase.

    Attributes:
        name: Its name.
        times: How often a run did it, on average over its repetitions.
        seconds: Mean time that it takes.
        views: Mean number of augmented views of a pair; NaN if it is not known, or not training.
    """

    name: str
    times: float
    seconds: float
    views: float = math.nan


def epoch_table(results: Sequence[Result], reference: str) -> Table:
    """A table with a row for the epochs of each phase of each run, and for its first and its later splits.

    Args:
        results: Runs with the callback ``epoch_cost``.
        reference: Label of the run whose mean epoch is 1.

    Raises:
        UsageError: If the time of the reference was not measured.
    """
    groups = group_repetitions(results)
    unit = _epoch_of(groups, reference)
    head = ['run', 'part', 'times', 'seconds', f'over an epoch of {reference}', 'views of a pair', 'the same per view']
    rows = [[label + star(runs), *_part_row(part, unit)] for label, runs in groups.items() for part in parts_of(runs)]
    theirs = [[MARK, part, '-', '-', f'{cost:.2f}', '-', '-'] for part, cost in published()['epochs'].items()]
    return Table.of([head, *rows, *theirs], [*notes(rows, groups.values()), NOTE], len(theirs))


def parts_of(runs: Sequence[Result]) -> list[Part]:
    """The epochs of repetitions by phase, or all of them where phases were not logged, then the splits."""
    phases = {metric: points[0][0] for run in runs for metric, points in run.series.items() if parse_phase(metric)}
    in_order = sorted(phases, key=lambda metric: phases[metric])  # of their first epochs
    parts = [_epochs(runs, metric, f'{parse_phase(metric)} epoch') for metric in in_order]
    splits = [_split_seconds(run) for run in runs]
    first, later = [times[0] for times in splits if times], [time for times in splits for time in times[1:]]
    parts = parts or [_epochs(runs, EPOCH_SECONDS, 'epoch')]
    parts += [Part('first split', len(first) / len(runs), fmean(first))] if first else []
    parts += [Part('later split', len(later) / len(runs), fmean(later))] if later else []
    return [part for part in parts if part.times]


def _epochs(runs: Sequence[Result], metric: str, name: str) -> Part:
    """Epochs whose time a metric holds."""
    seconds = [value for run in runs for _, value in run.series.get(metric, [])]
    views = [
        value for run in runs for epoch, value in run.series.get(VIEWS, []) if epoch in dict(run.series.get(metric, []))
    ]
    return Part(name, len(seconds) / len(runs), _mean(seconds), _mean(views))


def _split_seconds(run: Result) -> list[float]:
    """Time of each split, in ascending order of epochs."""
    seconds: dict[int, float] = defaultdict(float)
    for metric in (SWEEP_SECONDS, MIXTURE_SECONDS):
        for epoch, value in run.series.get(metric, []):
            seconds[epoch] += value
    return [value for _, value in sorted(seconds.items())]


def _part_row(part: Part, unit: Part) -> list[str]:
    over = part.seconds / unit.seconds
    per_view = over * unit.views / part.views
    return [part.name, f'{part.times:.0f}', f'{part.seconds:.2f}', *map(_format, (over, part.views, per_view))]


def overhead_table(results: Sequence[Result], reference: str) -> Table:
    """A table with a row for each run: how much longer it trains than as many epochs of another one.

    Args:
        results: Runs with the callback ``epoch_cost``.
        reference: Label of the run that is the unit.

    Returns:
        The table. Its columns are the time beyond that of as many epochs of the reference, the same per augmented view,
        and what the paper counts: the time beyond that of as many epochs of the reference as follow the first split.

    Raises:
        UsageError: If the time of the reference was not measured.
    """
    groups = group_repetitions(results)
    unit = _epoch_of(groups, reference)
    head = ['run', 'epochs', 'training, s', 'extra time', 'per view', 'over the epochs after the first split']
    rows = [
        [label + star(runs), *_overhead_row(runs, unit)]
        for label, runs in groups.items()
        if label != reference and _epochs(runs, EPOCH_SECONDS, '').times
    ]
    theirs = [[f'{name}, {MARK}', '-', '-', '-', '-', f'{cost:+.1%}'] for name, cost in published()['overhead'].items()]
    return Table.of([head, *rows, *theirs], [*notes(rows, groups.values()), NOTE], len(theirs))


def _overhead_row(runs: Sequence[Result], unit: Part) -> list[str]:
    epochs, seconds = _epochs(runs, EPOCH_SECONDS, ''), fmean(run.seconds for run in runs)
    extra = seconds / (epochs.times * unit.seconds)
    before = fmean(_epochs_until_split(run) for run in runs)
    after = (epochs.times - before) * unit.seconds if before else math.nan
    costs = extra, extra * unit.views / epochs.views, seconds / after
    return [f'{epochs.times:.0f}', f'{seconds:.0f}', *(_format_percent(cost - 1) for cost in costs)]


def _epochs_until_split(run: Result) -> int:
    """Epochs before the first split; 0 for a run without one, or that ends there."""
    first, last = (run.series.get(metric, [(0, 0.0)]) for metric in (SWEEP_SECONDS, EPOCH_SECONDS))
    return first[0][0] if first[0][0] < last[-1][0] else 0


def _epoch_of(groups: Mapping[str, Sequence[Result]], reference: str) -> Part:
    """The mean epoch of the reference."""
    unit = _epochs(groups[reference], EPOCH_SECONDS, reference)
    if not unit.times:
        raise UsageError(
            f'no time of {reference} was measured: train with callbacks.epoch_cost, or compare with another run by '
            '--against.'
        )
    return unit


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _format(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.2f}'


def _format_percent(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:+.1%}'
