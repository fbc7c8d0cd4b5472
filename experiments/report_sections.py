"""What a report of experiments holds, whatever form it is written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from callbacks.metric_names import EPOCH_SECONDS, asr_metric
from datamodules.usage_error import UsageError
from experiments.cost_tables import epoch_table, overhead_table
from experiments.downstream_table import TASKS, downstream_table
from experiments.paired import difference_table
from experiments.result_figures import success_against_accuracy, success_over_epochs
from experiments.results import Result, attacks_in, group_repetitions, last_values
from experiments.retrieval_figure import retrieval_over_epochs
from experiments.retrieval_table import measured_sets, retrieval_table
from experiments.success_table import success_table
from experiments.table_forms import Table
from experiments.tables import run_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOUT_RUNS = (
    'Success of an attack is hits of images of all seeds together, with the Wilson interval of these images, then the '
    'standard deviation of the rates of seeds, then the rate on the same images without the trigger in parentheses. '
    'Other numbers are means with the smallest and the largest of the seeds.'
)
BANDS = 'A curve for each seed. A run with a single one has the Wilson interval of its images as a band.'
PAPER = 'Rows of a paper are marked; nothing of them was measured here.'


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        title: What it is about.
        content: A table or a figure.
        about: How to read it.
    """

    title: str
    content: Table | Figure
    about: str = ''


def find_reference(results: Sequence[Result], against: str | None) -> str:
    """Label of the run that others are compared with: the named one, or the first.

    Raises:
        UsageError: If no run, or all repetitions of one, has that label.
    """
    labels = [*group_repetitions(results)]
    if against is not None and against not in labels:
        raise UsageError(f'--against: {against!r} is none of the runs: {", ".join(labels)}.')
    return against or labels[0]


def sections(results: Sequence[Result], reference: str) -> Iterator[Section]:
    """The parts of a report for which something was measured.

    Args:
        results: Runs; those of one name that differ by their seeds alone share a row or a curve.
        reference: Label of the run that the others are compared with.
    """
    yield Section('Runs', run_table(results), ABOUT_RUNS)
    yield from _figures(results)
    if table := difference_table({'': group_repetitions(results)}, reference):
        yield Section('Differences over the same seeds', table)
    if table := success_table(results):
        yield Section('Attack success beside that of the paper', table, PAPER)
    for task in TASKS:
        if table := downstream_table(results, task, reference):
            yield Section(f'Accuracy on several sets, {task.replace("_", "-")}', table, PAPER)
    if measured_sets(results):
        yield Section('Retrieval', retrieval_table(results))
        yield Section('Retrieval over the epochs', retrieval_over_epochs(results))
    yield from cost_sections(results, reference)


def _figures(results: Sequence[Result]) -> Iterator[Section]:
    attacks = attacks_in(results)
    has_accuracy = any(last_values([run], run.accuracy_metric) for run in results)
    if attacks and has_accuracy:
        yield Section('Utility against attack success', success_against_accuracy(results), 'The lower right is best.')
    if has_accuracy or any(last_values(results, asr_metric(attack, 'rate')) for attack in attacks):
        yield Section('Over the epochs', success_over_epochs(results), BANDS)


def cost_sections(results: Sequence[Result], reference: str) -> Iterator[Section]:
    """What training costs; nothing if the time of the reference was not measured."""
    if any(EPOCH_SECONDS in run.series for run in group_repetitions(results)[reference]):
        yield Section('Cost of an epoch', epoch_table(results, reference), PAPER)
        yield Section('Training time beyond that of the reference', overhead_table(results, reference), PAPER)
