"""Figures of a run as functions of numbers, without pyplot's global state."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from callbacks.bins import bin_edges
from callbacks.metric_names import Direction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure  # also for annotations elsewhere

# The palette of Okabe & Ito, which color-blind readers can tell apart. Markers repeat after seven and colors after six:
# together they tell 42 curves apart.
COLORS = ('#D55E00', '#0072B2', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
CLEAN_COLOR = '#000000'
NULL_COLOR = '#5D3A9B'  # of shuffled pairs; no attack has it
PHASE_COLORS = ('#FFFFFF', '#DCDCDC', '#F1F1F1', '#C8C8C8')  # grays: colors belong to the curves
DIRECTIONS: dict[Direction, str] = {'i2t': 'picture to text', 't2i': 'text to picture'}  # of retrieval
FIGURE_WIDTH = 7.5  # inches, as all figure sizes here


class Curve(NamedTuple):
    """A quantity over the epochs.

    Attributes:
        epoch: Epochs trained at each measurement, ascending.
        value: The value of each measurement.
    """

    epoch: Sequence[float]
    value: Sequence[float]


class AttackCurves(NamedTuple):
    """Success of an attack over the epochs. All values are rates in [0, 1].

    Attributes:
        rate: Attack success rate.
        low: Lower bound of its interval.
        high: Upper bound of its interval.
        clean: Rate at which clean images are classified as the target.
    """

    rate: Curve
    low: Curve
    high: Curve
    clean: Curve


class RankCurves(NamedTuple):
    """Retrieval in one direction over the epochs.

    Attributes:
        rank: Median rank, from 1.
        low: Lower end of the band that it is in by chance.
        high: Upper end of the band.
    """

    rank: Curve
    low: Curve
    high: Curve


class PoisonedPair(NamedTuple):
    """A poisoned pair as the model is trained on it.

    Attributes:
        image: uint8 (3, h, w), with the trigger.
        caption: The caption.
        target: Name of the class that the attack wants the image to be classified as.
        title: Title of the image; ``target: <target>`` if ``None``.
    """

    image: np.ndarray
    caption: str
    target: str
    title: str | None = None


def success_and_accuracy(
    attacks: Mapping[str, AttackCurves], accuracy: Mapping[str, Curve], phases: Sequence[str]
) -> Figure:
    """Attack success in the upper panel and accuracy in the lower one, against the epochs trained.

    Args:
        attacks: Attack -> success. If empty, its panel is left out.
        accuracy: Clean set -> zero-shot accuracy. If empty, its panel is left out.
        phases: Name of the phase of each planned epoch.
    """
    figure, axes = _epoch_panels(bool(attacks) + bool(accuracy), phases)
    if attacks:
        _draw_attacks(axes[0], attacks)
    for index, (name, curve) in enumerate(accuracy.items()):
        _draw_curve(axes[-1], curve, name, index, color=CLEAN_COLOR if len(accuracy) == 1 else None)
    if accuracy:
        axes[-1].set_ylabel('Zero-shot accuracy\n(fraction of clean images)')
    for axis in axes:
        _limit_to_fractions(axis)
    _add_legends(figure, axes, phases)
    return figure


def loss_and_ranks(loss: Curve, ranks: Mapping[str, RankCurves], phases: Sequence[str]) -> Figure:
    """Mean loss of training in the upper panel, and below it the median rank of retrieval beside chance.

    Args:
        loss: Mean loss of each epoch in nats.
        ranks: Set and direction -> median rank on the held-out pairs.
        phases: Name of the phase of each planned epoch.
    """
    figure, axes = _epoch_panels(2, phases)
    _draw_curve(axes[0], loss, 'training', 0, color=CLEAN_COLOR)
    axes[0].set_ylabel('Mean loss of an epoch\n(nats)')
    for index, (name, curves) in enumerate(ranks.items()):
        _draw_curve(axes[1], curves.rank, name, index)
        band = curves.low.epoch, curves.low.value, curves.high.value
        axes[1].fill_between(*band, color=_curve_color(index), alpha=0.2, linewidth=0, label=f'{name}, by chance')
    axes[1].set_ylabel('Median rank of retrieval\n(log scale)')
    scale_ranks(axes[1].yaxis)
    _add_legends(figure, axes, phases)
    return figure


def mean_similarity(during: Mapping[str, Curve], after: Mapping[str, Curve], phases: Sequence[str]) -> Figure:
    """Mean similarity of clean and of poisoned pairs against the epochs trained, as in Fig. 4 of the SafeCLIP paper.

    Args:
        during: ``clean`` or an attack -> mean, over an epoch, of the similarities of augmented views that training
            computed.
        after: ``clean`` or an attack -> mean similarity in a sweep over unaugmented pairs at the end of an epoch.
        phases: Name of the phase of each planned epoch.
    """
    figure, axes = _epoch_panels(1, phases)
    attacks = [name for name in {**during, **after} if name != 'clean']
    of_clean = 'clean pairs' if attacks else 'all pairs'  # without a known attack nobody knows which are clean
    for index, name in enumerate(['clean', *attacks], -1):
        color = CLEAN_COLOR if name == 'clean' else _curve_color(index)
        label = of_clean if name == 'clean' else f'{name} poisons'
        if name in after:
            _draw_curve(axes[0], after[name], f'{label}, after an epoch', index, color=color)
        if name in during:
            label = f'{label}, while training'
            axes[0].plot(*during[name], color=color, linestyle=':', marker='.', markersize=3, label=label)
    axes[0].set_ylabel('Mean similarity of\nimage and caption (cosine)')
    _add_legends(figure, axes, phases)
    return figure


def split_over_epochs(
    share: Curve, contamination: Curve, leak: Mapping[str, Curve], poison_rate: float, phases: Sequence[str]
) -> Figure:
    """Size of the safe side and the poison on it, against the epochs trained.

    Args:
        share: Safe pairs as a fraction of all pairs.
        contamination: Poisons as a fraction of the safe pairs.
        leak: Attack -> fraction of its poisons that are on the safe side. If empty, only the size is drawn.
        poison_rate: Poisons as a fraction of all pairs, which is the expected contamination of a random split.
        phases: Name of the phase of each planned epoch.
    """
    figure, axes = _epoch_panels(3 if leak else 1, phases)
    _draw_curve(axes[0], share, 'safe side', 0, color=CLEAN_COLOR)
    axes[0].set_ylabel('Safe side\n(fraction of pairs)')
    _limit_to_fractions(axes[0])
    if leak:
        for index, (name, curve) in enumerate(leak.items()):
            _draw_curve(axes[1], curve, name, index)
        axes[1].plot(*share, '--', color='0.5', label='a random split')
        axes[1].set_ylabel('Poisons that are safe\n(fraction of the attack)')
        _limit_to_fractions(axes[1])
        percent = [100 * value for value in contamination.value]
        _draw_curve(axes[2], Curve(contamination.epoch, percent), 'safe side', 0, color=CLEAN_COLOR)
        axes[2].axhline(100 * poison_rate, linestyle='--', color='0.5', label='all pairs')
        axes[2].set_ylabel('Poisoned pairs\n(% of pairs)')
        axes[2].set_ylim(0, 1.1 * max(100 * poison_rate, *percent, 1e-6))
    _add_legends(figure, axes, phases)
    return figure


def similarity_histogram(
    score: np.ndarray,
    poisons: Mapping[str, np.ndarray],
    mixture: Mapping[str, float] | None,
    title: str,
    null: Mapping[str, Any] | None = None,
) -> Figure:
    """Histograms of pairs and of shuffled pairs with the fitted mixture, above one of each attack's poisons.

    Args:
        score: Similarity of every pair, (N,). Values that are not finite are left out.
        poisons: Attack -> rows of its poisons. Each attack gets a panel.
        mixture: Parameters of the mixture and the split's ``threshold``, as stored in a partition; ``None`` without.
        title: Title of the figure.
        null: Histogram of the similarities of shuffled pairs, as stored in a partition; ``None`` if none was measured.
    """
    finite_score = score[np.isfinite(score)].astype(np.float64)
    edges = bin_edges(finite_score.min(), finite_score.max()) if null is None else np.asarray(null['edges'])
    heights = [2.6, *[1.0] * len(poisons)]
    figure = _new_figure((FIGURE_WIDTH, 1.3 + sum(heights)))
    axes: list[Axes] = list(figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    figure.suptitle(title)
    density = np.histogram(finite_score, edges, density=True)[0]
    axes[0].stairs(density, edges, fill=True, color='0.8', label=f'all {len(finite_score):,} pairs')
    if null is not None:
        _draw_null(axes[0], null)
    axes[0].set_ylabel('Density\n(per unit of similarity)')
    for index, (attack, rows) in enumerate(poisons.items()):
        axis, attack_score = axes[1 + index], score[rows][np.isfinite(score[rows])]
        label = f'{attack}: {len(attack_score):,} poisons'
        axis.stairs(np.histogram(attack_score, edges)[0], edges, fill=True, color=_curve_color(index), label=label)
        axis.set_ylabel('Poisons')
        label_integers(axis.yaxis, 3)
    for axis in axes:
        axis.set_ylim(bottom=0)
    if mixture is not None:
        _draw_mixture(axes[0], mixture, np.linspace(edges[0], edges[-1], 400))
    _draw_threshold(axes, (null or mixture or {}).get('threshold', np.nan))
    axes[-1].set_xlabel('Similarity of image and caption (cosine)')
    for axis in axes:
        _add_legend(axis)
    return figure


def contact_sheet(pairs: Mapping[str, Sequence[PoisonedPair]]) -> Figure:
    """Poisoned pairs as training sees them, one row for each attack.

    Args:
        pairs: Attack -> its pairs, at least one.
    """
    columns = max(len(row) for row in pairs.values())
    figure = _new_figure((0.4 + 1.6 * columns, 0.2 + 2.9 * len(pairs)))
    rows = figure.subfigures(len(pairs), squeeze=False)[:, 0]
    for part, (attack, row) in zip(rows, pairs.items(), strict=True):
        part.suptitle(attack, x=0.01, horizontalalignment='left', weight='bold', fontsize=10, parse_math=False)
        for axis, pair in zip(part.subplots(1, columns, squeeze=False)[0], row, strict=False):
            _draw_pair(axis, pair)
        for axis in part.axes:
            axis.set_axis_off() if not axis.images else axis.set(xticks=[], yticks=[])
    return figure


# --- helpers of the figures ---------------------------------------------------------------------------------------


def _curve_color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure. Matplotlib is imported here, since most commands draw nothing."""
    from matplotlib.figure import Figure

    return Figure(size, dpi=120, layout='constrained')


def scale_ranks(axis: Any) -> None:
    """Gives an axis of ranks, as ``axes.yaxis``, a logarithmic scale with whole numbers, such as 20, 50 and 100."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.axes.set(**{f'{axis.axis_name}scale': 'log'})
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def label_integers(axis: Any, max_labels: int = 10) -> None:
    """Labels an axis, as ``axes.xaxis``, at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(max_labels, integer=True))


def _epoch_panels(panels: int, phases: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Stacked panels that share an axis of epochs, with the phases as gray bands."""
    figure = _new_figure((FIGURE_WIDTH, 1.5 + 2.1 * panels))
    axes = list(figure.subplots(panels, sharex=True, squeeze=False)[:, 0])
    for axis in axes:
        for start, end, name in _phase_bands(phases):
            axis.axvspan(start, end, color=_phase_color(name, phases), linewidth=0, zorder=0)
        axis.set_xlim(-0.01 * len(phases), 1.01 * len(phases))  # keeps markers at the edges whole
        label_integers(axis.xaxis)
        axis.spines[['top', 'right']].set_visible(False)
    axes[-1].set_xlabel('Epochs trained')
    return figure, axes


def _phase_bands(phases: Sequence[str]) -> list[tuple[int, int, str]]:
    """First epoch, end and name of each stretch of one phase; empty if the whole plan is one phase."""
    bands = []
    for name, group in groupby(range(len(phases)), phases.__getitem__):
        epochs = list(group)
        bands.append((epochs[0], epochs[-1] + 1, name))
    return bands if len(bands) > 1 else []


def _phase_color(name: str, phases: Sequence[str]) -> str:
    return PHASE_COLORS[list(dict.fromkeys(phases)).index(name) % len(PHASE_COLORS)]


def _draw_curve(axis: Axes, curve: Curve, name: str, index: int, color: str | None = None) -> None:
    color, marker = color or _curve_color(index), MARKERS[index % len(MARKERS)]
    size = 5 if len(curve.epoch) <= 30 else 3
    axis.plot(*curve, color=color, marker=marker, markersize=size, label=name)


def _draw_attacks(axis: Axes, attacks: Mapping[str, AttackCurves]) -> None:
    for index, (name, curves) in enumerate(attacks.items()):
        _draw_curve(axis, curves.rate, name, index)
        axis.fill_between(
            curves.low.epoch, curves.low.value, curves.high.value, color=_curve_color(index), alpha=0.15, linewidth=0
        )
        axis.plot(*curves.clean, ':', color=_curve_color(index), label=f'{name}, clean images')
    axis.fill_between([], [], color=_curve_color(0), alpha=0.3, linewidth=0, label='Wilson intervals')
    axis.set_ylabel('Attack success rate\n(fraction of images)')


def _limit_to_fractions(axis: Axes) -> None:
    axis.set_ylim(-0.03, 1.03)


def _draw_null(axis: Axes, null: Mapping[str, Any]) -> None:
    """Outlines the shuffled pairs and says how many of them would count as safe."""
    counts, edges = np.asarray(null['counts']), np.asarray(null['edges'])
    density = counts / (counts.sum() * np.diff(edges))
    label = f'{counts.sum():,} shuffled pairs,\n{null["leak"]:.1%} of them would\ncount as safe'
    axis.stairs(density, edges, color=NULL_COLOR, linewidth=1.5, label=label)


def _draw_mixture(axis: Axes, mixture: Mapping[str, float], x: np.ndarray) -> None:
    for end, style in (('low', '--'), ('high', '-')):
        mean, sd, weight = (mixture[f'{name}_{end}'] for name in ('mean', 'sd', 'weight'))
        density = weight * np.exp(-0.5 * np.square((x - mean) / sd)) / (sd * np.sqrt(2 * np.pi))
        axis.plot(x, density, style, color=CLEAN_COLOR, label=f'{end} component: {weight:.0%},\nmean {mean:.3f}')


def _draw_threshold(axes: Sequence[Axes], threshold: float) -> None:
    if np.isfinite(threshold):
        for axis in axes:
            axis.axvline(threshold, color=CLEAN_COLOR, linestyle=':', linewidth=1.5)
        axes[0].plot([], [], ':', color=CLEAN_COLOR, linewidth=1.5, label=f'safe from {threshold:.3f} on')


def _draw_pair(axis: Axes, pair: PoisonedPair) -> None:
    axis.imshow(pair.image.transpose(1, 2, 0), interpolation='nearest')
    axis.set_title(pair.title or f'target: {_shorten(pair.target, 18)}', fontsize=8, parse_math=False)
    # Captions are untrusted text: a dollar sign must not start a formula.
    axis.set_xlabel(textwrap.fill(_shorten(pair.caption, 90), 22), fontsize=7, parse_math=False)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f'{text[: length - 1]}…'


def _add_legend(axis: Axes) -> None:
    axis.legend(loc='upper left', bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False, borderaxespad=0.0)


def _add_legends(figure: Figure, axes: Sequence[Axes], phases: Sequence[str]) -> None:
    """Adds a legend beside each panel and one of the phases below them, so that none covers a curve."""
    for axis in axes:
        _add_legend(axis)
    from matplotlib.patches import Patch

    names = dict.fromkeys(name for *_, name in _phase_bands(phases))
    bands: list[Any] = [
        Patch(facecolor=_phase_color(name, phases), edgecolor='0.6', label=f'{name} phase') for name in names
    ]
    if bands:
        figure.legend(handles=bands, loc='outside lower center', ncols=len(bands), fontsize=8, frameon=False)
