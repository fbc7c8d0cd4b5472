"""How well the leak of mismatched pairs estimates the leak of poisons, over all splits of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.plots import COLORS, MARKERS
from datamodules.usage_error import UsageError
from experiments.results import Result

LEAK_PREFIX = 'partition/leak/'
ESTIMATES = {
    'shuffled pairs': ('partition/null_leak',),
    'shuffled pairs, or what two canaries show': ('partition/null_leak', 'canary/evident_leak'),
}


class Estimated(NamedTuple):
    """The leak of one attack at one split.

    Attributes:
        attack: The attack.
        estimate: Largest leak of the mismatched pairs that the estimate uses, in [0, 1].
        leak: Share of the attack's poisons on the safe side, in [0, 1].
    """

    attack: str
    estimate: float
    leak: float


def estimated_leaks(results: Sequence[Result], metrics: Sequence[str]) -> list[Estimated]:
    """The leak of each attack at each split at which its estimate was measured.

    Args:
        results: Runs whose poisons are known.
        metrics: Names of the leaks of mismatched pairs; the estimate is the largest of them.
    """
    found = []
    for result in results:
        estimates: dict[int, float] = {}
        for epoch, value in (point for metric in metrics for point in result.series.get(metric, [])):
            estimates[epoch] = max(value, estimates.get(epoch, 0.0))
        leaks = {name: points for name, points in result.series.items() if name.startswith(LEAK_PREFIX)}
        found += [
            Estimated(name.removeprefix(LEAK_PREFIX), estimates[epoch], leak)
            for name, points in leaks.items()
            for epoch, leak in points
            if epoch in estimates
        ]
    return found


def leak_against_estimate(results: Sequence[Result]) -> Figure:
    """Draws the leak of each attack at each split against its estimate, with and without canaries.

    Points above the diagonal leak more than was estimated.

    Raises:
        UsageError: If no run measured both.
    """
    figure = Figure(figsize=(9.6, 4.9), layout='constrained')
    for axis, (title, metrics) in zip(figure.subplots(1, 2), ESTIMATES.items(), strict=True):
        points = estimated_leaks(results, metrics)
        if not points:
            raise UsageError('--meter needs a run with poisons of ours and a split, and none of these has both.')
        _draw_points(axis, points)
        axis.set_title(f'{title}\n{_summary(points)}', fontsize='medium')
        axis.set_xlabel('estimated leak')
    figure.axes[0].set_ylabel('leak of the attack')
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc='outside lower center', ncols=5, frameon=False)
    return figure


def _draw_points(axis: Axes, points: Sequence[Estimated]) -> None:
    largest = 1.05 * max(max(point.estimate, point.leak) for point in points) or 1.0
    axis.plot([0, largest], [0, largest], color='0.6', linewidth=1, zorder=0)
    for index, attack in enumerate(dict.fromkeys(point.attack for point in points)):
        own = [(point.estimate, point.leak) for point in points if point.attack == attack]
        style: dict[str, Any] = {'color': COLORS[index % len(COLORS)], 'alpha': 0.8, 'label': attack}
        axis.plot(*zip(*own, strict=True), MARKERS[index % len(MARKERS)], markersize=5, **style)
    axis.set(xlim=(-0.02 * largest, largest), ylim=(-0.02 * largest, largest))
    axis.grid(alpha=0.25)


def _summary(points: Sequence[Estimated]) -> str:
    """Rank correlation, and by how much a leak exceeds its estimate at most."""
    worst = max(points, key=lambda point: point.leak - point.estimate)
    excess = max(0.0, worst.leak - worst.estimate)
    correlation = rank_correlation(*np.array([(point.estimate, point.leak) for point in points]).T)
    return f'{len(points)} leaks, rank correlation {correlation:.2f},\nlargest underestimate {excess:.2f}'


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation, in [-1, 1]; NaN if either is constant."""
    from scipy.stats import spearmanr  # takes a while to import

    return float(spearmanr(one, other).statistic) if np.ptp(one) and np.ptp(other) else float('nan')
