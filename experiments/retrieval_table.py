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
R10 = Quantity('R@10', 'r10', 'r10_low', 'r10_high', 3)
CHANCE = Quantity('MedR of chance', 'medr_chance', 'medr_chance_low', 'medr_chance_high', 1)


def retrieval_table(results: Sequence[Result]) -> Table:
    """A table with a row for each run, or for all its repetitions with other seeds.

    For each direction it says the median rank and R@10 after the last epoch and after the best one, and the median rank
    that chance reaches. The best epoch of a run is the one with the largest sum of ``above_chance`` in both directions.
    A number of one run is followed by its 95 % interval, the mean of several by the smallest and the largest.

    Returns:
        The table; empty if no run measured retrieval.
    """
    measured = [result for result in results if measured_sets([result])]
    groups = group_repetitions(measured)
    rows = [_row(label + star(runs), name, runs) for label, runs in groups.items() for name in measured_sets(runs)]
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
    columns = [f'{quantity.label}, {when}' for quantity in (MEDR, R10) for when in Evaluations._fields]
    shown = [f'{words}: {column}' for words in DIRECTIONS.values() for column in (*columns, CHANCE.label)]
    return ['run', 'set', 'seeds', 'best epoch', *shown, 'training, s']


def _row(label: str, name: str, runs: Sequence[Result]) -> list[str]:
    evaluations = [find_evaluations(run, name) for run in runs]
    row = [label, name, str(len(runs)), ', '.join(str(each.best) for each in evaluations)]
    for way in DIRECTIONS:
        for quantity in (MEDR, R10):
            row += [_format(runs, name, way, quantity, when) for when in zip(*evaluations, strict=True)]
        row.append(_format(runs, name, way, CHANCE, [each.last for each in evaluations]))
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
