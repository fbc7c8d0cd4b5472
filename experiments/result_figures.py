"""Figures that compare finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.metric_names import asr_metric, parse_asr_metric
from callbacks.plots import COLORS, MARKERS, label_integers
from datamodules.usage_error import UsageError
from experiments.results import Result, attacks_in, group_repetitions, star

MAX_LEGEND_COLUMNS = 5
MAX_COLUMNS = 3  # of panels


def success_over_epochs(results: Sequence[Result]) -> Figure:
    """Success of each attack, and accuracy, against the epochs trained: one curve for each run.

    A run without repetitions has the interval of its images, several show their spread themselves.
    """
    panels = {asr_metric(attack, 'rate'): f'{attack}: attack success rate' for attack in attacks_in(results)}
    panels[_accuracy_metric(results)] = 'zero-shot accuracy'
    figure, axes = _panels(len(panels), 3.6, 3.0)
    for axis, (metric, title) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, group_repetitions(results), metric, title)
    draw_legend(figure)
    return figure


def success_against_accuracy(results: Sequence[Result]) -> Figure:
    """Final success of each attack against zero-shot accuracy, one point for each run; the lower right is best.

    Raises:
        UsageError: If no run measured an attack.
    """
    attacks = attacks_in(results)
    if not attacks:
        raise UsageError('--trade-off needs a run that measured an attack, and none of these did.')
    figure, axes = _panels(len(attacks), 4.0, 3.4)
    for axis, attack in zip(axes, attacks, strict=True):
        for index, (name, runs) in enumerate(group_repetitions(results).items()):
            _draw_points(axis, index, name + star(runs), runs, attack)
        axis.set(title=attack, xlabel='zero-shot accuracy', ylabel='attack success rate')
        axis.grid(alpha=0.25)
    _share_rates(axes)
    draw_legend(figure)
    return figure


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Panels in rows of at most three, four in a square, each of a size in inches."""
    columns = 2 if count == 4 else min(count, MAX_COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.4), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[count:]:
        axis.remove()
    return figure, list(axes[:count])


def _share_rates(axes: Sequence[Axes]) -> None:
    """One scale of success for all panels, from 0 to the highest point."""
    top = max((np.max(line.get_ydata()) for axis in axes for line in axis.lines), default=0.0) or 1.0
    for axis in axes:
        axis.set_ylim(-0.05 * top, 1.1 * top)


def _accuracy_metric(results: Sequence[Result]) -> str:
    """The accuracy of the first run that measured any."""
    return next((run.accuracy_metric for run in results if run.series), results[0].accuracy_metric)


def draw_legend(figure: Figure) -> None:
    """One entry for each run that any panel shows."""
    entries = {
        name: handle for axis in figure.axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if entries:
        columns = min(len(entries), MAX_LEGEND_COLUMNS)
        figure.legend(entries.values(), entries.keys(), loc='outside lower center', ncols=columns, frameon=False)


def _draw_points(axis: Axes, index: int, name: str, runs: Sequence[Result], attack: str) -> None:
    values = [(run.last(run.accuracy_metric), run.last(asr_metric(attack, 'rate'))) for run in runs]
    points = [point for point in values if None not in point]
    if points:
        (line,) = axis.plot(*zip(*points, strict=True), MARKERS[index % len(MARKERS)], label=name, alpha=0.85)
        line.set(color=_color(index), fillstyle='full' if index < len(COLORS) else 'none')  # colors come twice


def _draw_panel(axis: Axes, rows: Mapping[str, Sequence[Result]], metric: str, title: str) -> None:
    for index, (name, runs) in enumerate(rows.items()):
        for repetition, run in enumerate(runs):
            _draw_curve(axis, index, run, metric, label=None if repetition else name + star(runs))
        if len(runs) == 1:
            _draw_interval(axis, index, runs[0], metric)
    axis.set(title=title, xlabel='epochs trained', ylim=(-0.03, 1.03))
    label_integers(axis.xaxis)
    axis.grid(alpha=0.25)


def _draw_curve(axis: Axes, index: int, run: Result, metric: str, label: str | None) -> None:
    color, marker, points = _color(index), MARKERS[index % len(MARKERS)], run.series.get(metric, [])
    if points:
        axis.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, alpha=0.85, label=label)


def _draw_interval(axis: Axes, index: int, run: Result, metric: str) -> None:
    if name := parse_asr_metric(metric):
        low, high = (run.series.get(asr_metric(name.attack, bound), []) for bound in ('low', 'high'))
        epochs, lower, upper = [epoch for epoch, _ in low], [value for _, value in low], [value for _, value in high]
        axis.fill_between(epochs, lower, upper, color=_color(index), alpha=0.1, linewidth=0)


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]
