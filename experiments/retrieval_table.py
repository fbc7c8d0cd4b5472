"""A table of retrieval: what models reach that were trained on protected pairs, and what chance does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from callbacks.metric_names import Direction, RetrievalQuantity, retrieval_metric, retrieval_sets
from experiments.results import Result, group_repetitions, star
from experiments.table_forms import Table
from experiments.tables import notes

DIRECTIONS: Mapping[Direction, str] = {'i2t': 'image to text', 't2i': 'text to image'}


class Quantity(NamedTuple):
    """A measure, the ends of its 95 % interval, and how it is written."""

    label: str
    what: RetrievalQuantity
    low: RetrievalQuantity
    high: RetrievalQuantity
    decimals: int


class Evaluations(NamedTuple):
    """The last evaluation of a run and its best, by the epochs trained until then."""

    last: int
    best: int


MEDR = Quantity('MedR', 'medr', 'medr_low', 'medr_high', 1)
CHANCE = Quantity('MedR of chance', 'medr_chance', 'medr_chance_low', 'medr_chance_high', 1)
RECALLS = (
    Quantity('R@1', 'r1', 'r1_low', 'r1_high', 3),
    Quantity('R@5', 'r5', 'r5_low', 'r5_high', 3),
    Quantity('R@10', 'r10', 'r10_low', 'r10_high', 3),
)


def retrieval_table(results: Sequence[Result]) -> Table:
    """A table with a row for each direction of each run, or of all its repetitions with other seeds.

    It says the median rank and the recalls after the last epoch and after the best one, and the median rank that chance
    reaches. The best epoch of a run is the one with the largest sum of ``above_chance`` in both directions. A number of
    one run is followed by its 95 % interval, the mean of several by the smallest and the largest.

    Returns:
        The table; empty if no run measured retrieval.
    """
    measured = [result for result in results if measured_sets([result])]
    groups = group_repetitions(measured)
    rows = [
        _row(label + star(runs), name, way, runs)
        for label, runs in groups.items()
        for name in measured_sets(runs)
        for way in DIRECTIONS
    ]
    return Table.of([_head(), *rows], notes(rows, groups.values()))


def measured_sets(results: Sequence[Result]) -> list[str]:
    """Sets that any run measured retrieval on, in alphabetical order."""
    return retrieval_sets([metric for run in results for metric in run.series])


def is_retrieval_alone(result: Result) -> bool:
    """Whether retrieval is all that a run measured: neither zero-shot accuracy nor the success of attacks."""
    measured_else = result.attacks or result.last(result.accuracy_metric) is not None
    return bool(measured_sets([result])) and not measured_else


def find_evaluations(result: Result, name: str) -> Evaluations:
    """The last and the best evaluation on a set; of equally good ones the earliest."""
    above = [dict(result.series[retrieval_metric(name, way, 'above_chance')]) for way in DIRECTIONS]
    both = {epoch: sum(values[epoch] for values in above) for epoch in above[0]}
    return Evaluations(max(both), max(both, key=lambda epoch: both[epoch]))


def _head() -> list[str]:
    shown = [f'{quantity.label}, {when}' for quantity in (MEDR, *RECALLS) for when in Evaluations._fields]
    return ['run', 'set', 'direction', 'seeds', 'best epoch', CHANCE.label, *shown, 'training, s']


def _row(label: str, name: str, way: Direction, runs: Sequence[Result]) -> list[str]:
    evaluations = [find_evaluations(run, name) for run in runs]
    row = [label, name, DIRECTIONS[way], str(len(runs)), ', '.join(str(each.best) for each in evaluations)]
    row.append(_format(runs, name, way, CHANCE, [each.last for each in evaluations]))
    for quantity in (MEDR, *RECALLS):
        row += [_format(runs, name, way, quantity, when) for when in zip(*evaluations, strict=True)]
    return [*row, f'{sum(run.seconds for run in runs) / len(runs):.0f}']


def _format(runs: Sequence[Result], name: str, way: Direction, quantity: Quantity, when: Sequence[int]) -> str:
    """A quantity after some epoch of each run."""

    def values(what: RetrievalQuantity) -> list[float]:
        metric = retrieval_metric(name, way, what)
        return [dict(run.series[metric])[epoch] for run, epoch in zip(runs, when, strict=True)]

    measured = values(quantity.what)
    ends = [*values(quantity.low), *values(quantity.high)] if len(runs) == 1 else [min(measured), max(measured)]
    mean, low, high = (f'{value:.{quantity.decimals}f}' for value in (sum(measured) / len(measured), *ends))
    return f'{mean} [{low}, {high}]' if len(runs) == 1 else f'{mean} ({low} to {high})'
