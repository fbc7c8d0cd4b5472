"""Figures of a run: functions of numbers, with matplotlib's objects alone and none of pyplot's global state."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

# Okabe & Ito's palette, told apart by color-blind readers too; markers repeat after another number, so that the
# two together name twelve curves and more.
COLORS = ('#D55E00', '#0072B2', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
CLEAN = '#000000'
PHASES = ('#FFFFFF', '#DCDCDC', '#F1F1F1', '#C8C8C8')  # grays: colors belong to the curves
NARROW = 1e-3  # of similarity; a histogram of equal ones is twice as wide
WIDTH = 7.5  # inches, as are all sizes of figures here


class Curve(NamedTuple):
    """A number over the epochs.

    Attributes:
        epoch: Epochs trained when it was measured, ascending.
        value: The number.
    """

    epoch: Sequence[float]
    value: Sequence[float]


class AttackCurves(NamedTuple):
    """Success of an attack over the epochs, each a rate in [0, 1].

    Attributes:
        rate: Attack success rate.
        low: Lower end of its interval.
        high: Upper end.
        clean: Rate at which clean images are taken for the target.
    """

    rate: Curve
    low: Curve
    high: Curve
    clean: Curve


class PoisonedPair(NamedTuple):
    """A pair as it is trained on.

    Attributes:
        image: uint8 (3, h, w), with its trigger.
        caption: Its caption.
        target: Name of the class that the attack wants the picture to be taken for.
        title: What stands above it instead of the target.
    """

    image: np.ndarray
    caption: str
    target: str
    title: str | None = None


def success_and_accuracy(
    attacks: Mapping[str, AttackCurves], accuracy: Mapping[str, Curve], phases: Sequence[str]
) -> Figure:
    """Attack success over accuracy, against the epochs trained.

    Args:
        attacks: Success of each attack by its name; without any, that panel is left out.
        accuracy: Zero-shot accuracy on each clean set by its name; likewise.
        phases: Name of the phase of each epoch of the whole plan.
    """
    figure, axes = _over_epochs(bool(attacks) + bool(accuracy), phases)
    if attacks:
        _draw_attacks(axes[0], attacks)
    for place, (name, curve) in enumerate(accuracy.items()):
        _draw(axes[-1], curve, name, place, color=CLEAN if len(accuracy) == 1 else None)
    if accuracy:
        axes[-1].set_ylabel('Zero-shot accuracy\n(fraction of clean images)')
    for axis in axes:
        _as_fractions(axis)
    _legends(figure, axes, phases)
    return figure


def mean_similarity(during: Mapping[str, Curve], after: Mapping[str, Curve], phases: Sequence[str]) -> Figure:
    """Mean similarity of clean and of poisoned pairs against the epochs trained, as Fig. 4 of SafeCLIP's paper.

    Args:
        during: Means over an epoch of what training computed, on augmented views; ``clean`` and each attack.
        after: Means of a sweep at the end of an epoch, over pairs as they are; likewise.
        phases: Name of the phase of each epoch of the whole plan.
    """
    figure, axes = _over_epochs(1, phases)
    attacks = [name for name in {**during, **after} if name != 'clean']
    for place, name in enumerate(['clean', *attacks], -1):
        color = CLEAN if name == 'clean' else _color(place)
        label = 'clean pairs' if name == 'clean' else f'{name} poisons'
        if name in after:
            _draw(axes[0], after[name], f'{label}, after an epoch', place, color=color)
        if name in during:
            label = f'{label}, while training'
            axes[0].plot(*during[name], color=color, linestyle=':', marker='.', markersize=3, label=label)
    axes[0].set_ylabel('Mean similarity of\nimage and caption (cosine)')
    _legends(figure, axes, phases)
    return figure


def split_over_epochs(
    share: Curve, contamination: Curve, leak: Mapping[str, Curve], poison_rate: float, phases: Sequence[str]
) -> Figure:
    """Size of the safe side and how much poison is on it, against the epochs trained.

    Args:
        share: Safe pairs as a fraction of all.
        contamination: Poisons as a fraction of the safe pairs.
        leak: Of each attack, the fraction of its poisons that is safe; without any, only the size is drawn.
        poison_rate: Poisons as a fraction of all pairs: the contamination of a split that knows nothing.
        phases: Name of the phase of each epoch of the whole plan.
    """
    figure, axes = _over_epochs(3 if leak else 1, phases)
    _draw(axes[0], share, 'safe side', 0, color=CLEAN)
    axes[0].set_ylabel('Safe side\n(fraction of pairs)')
    _as_fractions(axes[0])
    if leak:
        for place, (name, curve) in enumerate(leak.items()):
            _draw(axes[1], curve, name, place)
        axes[1].plot(*share, '--', color='0.5', label='a random split')
        axes[1].set_ylabel('Poisons that are safe\n(fraction of the attack)')
        _as_fractions(axes[1])
        percent = [100 * value for value in contamination.value]
        _draw(axes[2], Curve(contamination.epoch, percent), 'safe side', 0, color=CLEAN)
        axes[2].axhline(100 * poison_rate, linestyle='--', color='0.5', label='all pairs')
        axes[2].set_ylabel('Poisoned pairs\n(% of pairs)')
        axes[2].set_ylim(0, 1.1 * max(100 * poison_rate, *percent, 1e-6))
    _legends(figure, axes, phases)
    return figure


def similarity_histogram(
    score: np.ndarray, poisons: Mapping[str, np.ndarray], mixture: Mapping[str, float] | None, title: str
) -> Figure:
    """How similar pairs are, what the mixture makes of it, and where the poisons lie.

    Args:
        score: Similarity of every pair, (N,); what is not finite is left out.
        poisons: Rows of the poisons of each attack; each gets a panel.
        mixture: Parameters of the mixture and the split's ``threshold``, as a partition keeps them.
        title: Title of the figure.
    """
    present = score[np.isfinite(score)].astype(np.float64)
    edges = np.linspace(present.min() - NARROW, present.max() + NARROW, 81)
    heights = [2.6, *[1.0] * len(poisons)]
    figure = Figure((WIDTH, 1.3 + sum(heights)), dpi=120, layout='constrained')
    axes: list[Axes] = list(figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    figure.suptitle(title)
    density = np.histogram(present, edges, density=True)[0]
    axes[0].stairs(density, edges, fill=True, color='0.8', label=f'all {len(present):,} pairs')
    axes[0].set_ylabel('Density\n(per unit of similarity)')
    for place, (attack, rows) in enumerate(poisons.items()):
        axis, of_attack = axes[1 + place], score[rows][np.isfinite(score[rows])]
        label = f'{attack}: {len(of_attack):,} poisons'
        axis.stairs(np.histogram(of_attack, edges)[0], edges, fill=True, color=_color(place), label=label)
        axis.set_ylabel('Poisons')
        axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axis in axes:
        axis.set_ylim(bottom=0)
    if mixture is not None:
        _draw_mixture(axes, mixture, np.linspace(edges[0], edges[-1], 400))
    axes[-1].set_xlabel('Similarity of image and caption (cosine)')
    for axis in axes:
        _legend(axis)
    return figure


def contact_sheet(pairs: Mapping[str, Sequence[PoisonedPair]]) -> Figure:
    """Poisoned pairs as training sees them, a row for each attack.

    Args:
        pairs: Some pairs of each attack, one at least.
    """
    columns = max(len(row) for row in pairs.values())
    figure = Figure((0.4 + 1.6 * columns, 0.2 + 2.9 * len(pairs)), dpi=120, layout='constrained')
    rows = figure.subfigures(len(pairs), squeeze=False)[:, 0]
    for part, (attack, row) in zip(rows, pairs.items(), strict=True):
        part.suptitle(attack, x=0.01, horizontalalignment='left', weight='bold', fontsize=10, parse_math=False)
        for axis, pair in zip(part.subplots(1, columns, squeeze=False)[0], row, strict=False):
            _draw_pair(axis, pair)
        for axis in part.axes:
            axis.set_axis_off() if not axis.images else axis.set(xticks=[], yticks=[])
    return figure


# --- parts of the above -------------------------------------------------------------------------------------------


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]


def _over_epochs(panels: int, phases: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Panels above each other that share an axis of epochs, with the phases as gray bands."""
    figure = Figure((WIDTH, 1.5 + 2.1 * panels), dpi=120, layout='constrained')
    axes = list(figure.subplots(panels, sharex=True, squeeze=False)[:, 0])
    for axis in axes:
        for start, end, name in _bands(phases):
            axis.axvspan(start, end, color=_gray(name, phases), linewidth=0, zorder=0)
        axis.set_xlim(-0.01 * len(phases), 1.01 * len(phases))  # a marker at the edge is drawn whole
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[['top', 'right']].set_visible(False)
    axes[-1].set_xlabel('Epochs trained')
    return figure, axes


def _bands(phases: Sequence[str]) -> list[tuple[int, int, str]]:
    """First epoch, end and name of each run of equal phases; none if there is only one."""
    bands = []
    for name, group in groupby(range(len(phases)), phases.__getitem__):
        epochs = list(group)
        bands.append((epochs[0], epochs[-1] + 1, name))
    return bands if len(bands) > 1 else []


def _gray(name: str, phases: Sequence[str]) -> str:
    return PHASES[list(dict.fromkeys(phases)).index(name) % len(PHASES)]


def _draw(axis: Axes, curve: Curve, name: str, place: int, color: str | None = None) -> None:
    color, marker = color or _color(place), MARKERS[place % len(MARKERS)]
    size = 5 if len(curve.epoch) <= 30 else 3
    axis.plot(*curve, color=color, marker=marker, markersize=size, label=name)


def _draw_attacks(axis: Axes, attacks: Mapping[str, AttackCurves]) -> None:
    for place, (name, curves) in enumerate(attacks.items()):
        _draw(axis, curves.rate, name, place)
        axis.fill_between(
            curves.low.epoch, curves.low.value, curves.high.value, color=_color(place), alpha=0.15, linewidth=0
        )
        axis.plot(*curves.clean, ':', color=_color(place), label=f'{name}, clean images')
    axis.fill_between([], [], color=_color(0), alpha=0.3, linewidth=0, label='Wilson intervals')
    axis.set_ylabel('Attack success rate\n(fraction of images)')


def _as_fractions(axis: Axes) -> None:
    axis.set_ylim(-0.03, 1.03)


def _draw_mixture(axes: Sequence[Axes], mixture: Mapping[str, float], x: np.ndarray) -> None:
    for end, style in (('low', '--'), ('high', '-')):
        mean, sd, weight = (mixture[f'{name}_{end}'] for name in ('mean', 'sd', 'weight'))
        density = weight * np.exp(-0.5 * np.square((x - mean) / sd)) / (sd * np.sqrt(2 * np.pi))
        axes[0].plot(x, density, style, color=CLEAN, label=f'{end} component: {weight:.0%},\nmean {mean:.3f}')
    threshold = mixture.get('threshold', np.nan)
    if np.isfinite(threshold):
        for axis in axes:
            axis.axvline(threshold, color=CLEAN, linestyle=':', linewidth=1.5)
        axes[0].plot([], [], ':', color=CLEAN, linewidth=1.5, label=f'safe from {threshold:.3f} on')


def _draw_pair(axis: Axes, pair: PoisonedPair) -> None:
    axis.imshow(pair.image.transpose(1, 2, 0), interpolation='nearest')
    axis.set_title(pair.title or f'target: {_shortened(pair.target, 18)}', fontsize=8, parse_math=False)
    # Captions come from strangers: a dollar sign must not start a formula.
    axis.set_xlabel(textwrap.fill(_shortened(pair.caption, 90), 22), fontsize=7, parse_math=False)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f'{text[: length - 1]}…'


def _legend(axis: Axes) -> None:
    axis.legend(loc='upper left', bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False, borderaxespad=0.0)


def _legends(figure: Figure, axes: Sequence[Axes], phases: Sequence[str]) -> None:
    """A legend beside each panel, and one of the phases below all of them: none lies on a curve."""
    for axis in axes:
        _legend(axis)
    names = dict.fromkeys(name for *_, name in _bands(phases))
    bands: list[Any] = [Patch(facecolor=_gray(name, phases), edgecolor='0.6', label=f'{name} phase') for name in names]
    if bands:
        figure.legend(handles=bands, loc='outside lower center', ncols=len(bands), fontsize=8, frameon=False)
