"""A figure of methods: how accurate each is, and how much its worst attack still gets."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from callbacks.metric_names import asr_metric
from callbacks.plots import COLORS, MARKERS
from experiments.method_table import Cells, accuracies, runs_of, runs_under
from experiments.point_names import Place, write_names
from experiments.results import Result
from experiments.table_layout import TableLayout


class Point(NamedTuple):
    """A method in the figure.

    Attributes:
        excess: For each pair of seeds, success of the worst attack minus the rate on clean images.
        accuracy: For each pair of seeds, zero-shot accuracy.
    """

    excess: Sequence[float]
    accuracy: Sequence[float]

    @property
    def center(self) -> Place:
        """Means over seeds."""
        return fmean(self.excess), fmean(self.accuracy)

    @property
    def bars(self) -> list[tuple[Place, Place]]:
        """Both ends of a horizontal and of a vertical line from the smallest to the largest value of a seed."""
        x, y = self.center
        across = (min(self.excess), y), (max(self.excess), y)
        return [across, ((x, min(self.accuracy)), (x, max(self.accuracy)))]


def accuracy_against_worst_attack(cells: Cells, layout: TableLayout) -> Figure | None:
    """Zero-shot accuracy of each method against the success of its worst attack; bars span the seeds.

    Args:
        cells: Set of attacks -> method -> runs, repetitions with other seeds.
        layout: Methods, their kinds and attacks to show.

    Returns:
        The figure; ``None`` if no method was measured under all attacks. Such methods are left out.
    """
    figure = Figure(figsize=(7.5, 5.4), layout='constrained')
    axis, shown = figure.subplots(), dict[str, Point]()
    for index, (kind, methods) in enumerate(layout.kinds.items()):
        points = {name: point_of(cells, method, layout) for method, name in methods.items()}
        known = {name: point for name, point in points.items() if point}
        _draw_points(axis, index, kind, [*known.values()])
        shown |= known
    if not shown:
        return None
    axis.set(xlabel='success of the worst attack minus the rate on clean images', ylabel='zero-shot accuracy')
    axis.set_title('upper left is best', loc='left', fontsize='small', color='0.4')
    axis.margins(0.06, 0.08)
    axis.grid(alpha=0.25)
    figure.legend(loc='outside lower center', ncols=4, frameon=False, fontsize='small')
    bars = [bar for point in shown.values() for bar in point.bars]
    write_names(axis, {name: point.center for name, point in shown.items()}, bars)
    return figure


def point_of(cells: Cells, method: str, layout: TableLayout) -> Point | None:
    """A method's point; ``None`` if its accuracy or its success under some attack is not known.

    The worst attack is the one that gets most over all seeds.
    """
    accuracy = accuracies(runs_of(cells, method))
    excesses = [_excesses(runs_under(cells, method, attack), attack) for attack in layout.attacks]
    return Point(max(excesses, key=fmean), accuracy) if accuracy and all(excesses) else None


def _excesses(runs: Sequence[Result], attack: str) -> list[float]:
    pairs = ((run.last(asr_metric(attack, 'rate')), run.last(asr_metric(attack, 'clean'))) for run in runs)
    return [rate - clean for rate, clean in pairs if rate is not None and clean is not None]


def _draw_points(axis: Axes, index: int, kind: str, points: Sequence[Point]) -> None:
    color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
    axis.add_collection(LineCollection([bar for point in points for bar in point.bars], color=color, alpha=0.6))
    if points:
        centers = zip(*(point.center for point in points), strict=True)
        axis.plot(*centers, marker, color=color, markersize=6, label=kind.replace('$', r'\$'))  # else a formula
