"""Median rank of retrieval after training: a row for each method, a color for what it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.metric_names import Direction, retrieval_metric
from callbacks.plots import COLORS, DIRECTIONS, MARKERS, scale_ranks
from datamodules.usage_error import UsageError
from experiments.result_figures import draw_legend
from experiments.results import Result, group_repetitions
from experiments.retrieval_table import find_evaluations, measured_sets

ROW_HEIGHT = 0.26  # inches


def ranks_after_training(results: Sequence[Result]) -> Figure:
    """Draws, in a row for each set, the median rank after the last epoch and after the best one, both ways.

    A run is named ``<method>-<data>``, as the cells of a grid are, and repetitions with other seeds share their row and
    color. A gray band spans what chance reaches.

    Raises:
        UsageError: If no run measured retrieval.
    """
    sets = measured_sets(results)
    if not sets:
        raise UsageError('--ranks needs a run with held-out pairs and callbacks.retrieval, and none of these is.')
    named = {split_name(label): runs for label, runs in group_repetitions(results).items()}
    methods, data = ([*dict.fromkeys(name[part] for name in named)] for part in (0, 1))
    panels: list[tuple[str, Direction]] = [(name, way) for name in sets for way in DIRECTIONS]
    figure = Figure(figsize=(8, 0.4 + (1 + ROW_HEIGHT * len(methods)) * len(sets)), layout='constrained')
    grid = figure.subplots(len(sets), len(DIRECTIONS), sharey=True, squeeze=False)
    for axis, (name, way) in zip(grid.flat, panels, strict=True):
        _draw_chance(axis, [run for run in results if name in measured_sets([run])], name, way)
        for (method, trained_on), runs in named.items():
            measured = [run for run in runs if name in measured_sets([run])]
            _draw_runs(axis, measured, name, way, methods.index(method), data.index(trained_on), trained_on)
        axis.set(title=f'{name}: {DIRECTIONS[way]}', xlabel='median rank (log scale)')
        axis.set_yticks(range(len(methods)), methods)
        axis.grid(alpha=0.25)
        scale_ranks(axis.xaxis)
    figure.axes[0].invert_yaxis()
    figure.axes[0].plot([], [], 'o', color='0.4', markerfacecolor='white', label='best epoch')
    draw_legend(figure)
    return figure


def split_name(label: str) -> tuple[str, str]:
    """Method and data of a run's name; without data, what the legend says of its only color.

    Example:
        >>> split_name('drop_rare-clean'), split_name('clip')
        (('drop_rare', 'clean'), ('clip', 'last epoch'))
    """
    method, _, data = label.rpartition('-')
    return (method, data) if method else (data, 'last epoch')


def _draw_chance(axis: Axes, runs: Sequence[Result], name: str, way: Direction) -> None:
    low, high = (
        [run.last(retrieval_metric(name, way, what)) for run in runs]
        for what in ('medr_chance_low', 'medr_chance_high')
    )
    axis.axvspan(min(filter(None, low)), max(filter(None, high)), color='0.85', linewidth=0, label='chance')


def _draw_runs(
    axis: Axes, runs: Sequence[Result], name: str, way: Direction, place: int, number: int, label: str
) -> None:
    """Filled where training ended and hollow at its best epoch, joined by a line."""
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    for run in runs:
        ranks = dict(run.series[retrieval_metric(name, way, 'medr')])
        last, best = (ranks[epoch] for epoch in find_evaluations(run, name))
        axis.plot([last, best], [place, place], color=color, linewidth=1)
        axis.plot(best, place, marker, color=color, markersize=5, markerfacecolor='white')
        axis.plot(last, place, marker, color=color, markersize=5, label=label)
