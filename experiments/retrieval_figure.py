"""Training loss and median rank of retrieval over the epochs of finished runs, beside what chance reaches."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.metric_names import Direction, RetrievalQuantity, retrieval_metric
from callbacks.plots import COLORS, DIRECTIONS, MARKERS, label_integers, scale_ranks
from datamodules.usage_error import UsageError
from experiments.result_figures import draw_legend
from experiments.results import Result, group_repetitions, star
from experiments.retrieval_table import measured_sets
from experiments.run_results import LOSS


def retrieval_over_epochs(results: Sequence[Result]) -> Figure:
    """Draws the loss and, in a row for each set, the median rank both ways beside chance; a curve for each run.

    Raises:
        UsageError: If no run measured retrieval.
    """
    sets = measured_sets(results)
    if not sets:
        raise UsageError('--retrieval needs a run with held-out pairs and callbacks.retrieval, and none of these is.')
    panels: list[tuple[str, Direction]] = [(name, way) for name in sets for way in DIRECTIONS]
    figure, loss, ranks = _axes(len(sets), any(run.series.get(LOSS) for run in results))
    for axis, (name, way) in zip(ranks, panels, strict=True):
        axis.set(title=f'{name}: {DIRECTIONS[way]}', xlabel='epochs trained')
        scale_ranks(axis.yaxis)
    for axis in ranks[::2]:
        axis.set_ylabel('median rank (log scale)')
    for index, (label, runs) in enumerate(group_repetitions(results).items()):
        for repetition, run in enumerate(runs):
            shown = '_' if repetition else label + star(runs)
            if loss is not None:
                _draw(loss, run.series.get(LOSS, []), index, shown)
            for axis, (name, way) in zip(ranks, panels, strict=True):
                _draw_ranks(axis, run, name, way, index, shown)
    for axis in figure.axes:
        axis.grid(alpha=0.25)
        label_integers(axis.xaxis)
    ranks[0].fill_between([], [], color='0.5', alpha=0.4, linewidth=0, label='chance, 95 % band')
    draw_legend(figure)
    return figure


def _axes(sets: int, has_loss: bool) -> tuple[Figure, Axes | None, list[Axes]]:
    """The figure, its panel of the loss, and two panels of ranks for each set. Runs of few steps log no loss."""
    columns = has_loss + len(DIRECTIONS)
    figure = Figure(figsize=(3.6 * columns, 3.2 * sets + 0.4), layout='constrained')
    grid = figure.subplots(sets, columns, squeeze=False)
    ranks = [*grid[:, has_loss:].flat]
    if not has_loss:
        return figure, None, ranks
    grid[0, 0].set(title='training loss', ylabel='nats', xlabel='epochs trained')
    for axis in grid[1:, 0]:
        axis.remove()
    return figure, grid[0, 0], ranks


def _draw(axis: Axes, points: Sequence[tuple[int, float]], index: int, label: str) -> None:
    color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
    if points:
        axis.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, alpha=0.85, label=label)


def _draw_ranks(axis: Axes, run: Result, name: str, way: Direction, index: int, label: str) -> None:
    """The median rank of a run, and the band of chance in the color of the run."""

    def points(what: RetrievalQuantity) -> list[tuple[int, float]]:
        return run.series.get(retrieval_metric(name, way, what), [])

    low, high = points('medr_chance_low'), points('medr_chance_high')
    epochs, lower, upper = [epoch for epoch, _ in low], [value for _, value in low], [value for _, value in high]
    axis.fill_between(epochs, lower, upper, color=COLORS[index % len(COLORS)], alpha=0.2, linewidth=0)
    _draw(axis, points('medr'), index, label)
