from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from scipy.integrate import trapezoid

from callbacks.plots import (
    COLORS,
    MARKERS,
    AttackCurves,
    Curve,
    PoisonedPair,
    RankCurves,
    contact_sheet,
    loss_and_ranks,
    mean_similarity,
    similarity_histogram,
    split_over_epochs,
    success_and_accuracy,
)

EPOCHS = [1, 2, 3]
PHASES = ['unimodal', 'unimodal', 'slow', 'mixed', 'mixed']
MIXTURE = {
    'mean_low': 0.1, 'mean_high': 0.5, 'sd_low': 0.1, 'sd_high': 0.1, 'weight_low': 0.4, 'weight_high': 0.6,
    'threshold': 0.4,
}  # fmt: skip


def curve(*values: float) -> Curve:
    return Curve(EPOCHS, values or (0.1, 0.2, 0.3))


def attack() -> AttackCurves:
    return AttackCurves(curve(), curve(0.0, 0.1, 0.2), curve(0.2, 0.3, 0.4), curve(0.01, 0.01, 0.01))


def ranks() -> RankCurves:
    return RankCurves(curve(300, 200, 90), curve(600, 590, 610), curve(700, 690, 720))


def score() -> np.ndarray:
    values = np.random.default_rng(0).normal(0.3, 0.2, 500).astype(np.float32)
    values[7] = np.nan
    return values


def pair(caption: str = 'a boat', target: str = 'boat') -> PoisonedPair:
    return PoisonedPair(np.zeros((3, 8, 8), np.uint8), caption, target)


def all_figures() -> dict[str, Figure]:
    poisons = {'badnet': np.arange(20), 'targeted': np.arange(20, 30)}
    return {
        'success': success_and_accuracy({'badnet': attack(), 'targeted': attack()}, {'heldout': curve()}, PHASES),
        'mean': mean_similarity({'clean': curve(), 'badnet': curve()}, {'clean': curve()}, PHASES),
        'split': split_over_epochs(curve(), curve(), {'badnet': curve()}, 0.001, PHASES),
        'histogram': similarity_histogram(score(), poisons, MIXTURE, 'After 6 epochs'),
        'ranks': loss_and_ranks(curve(), {'val, picture to text': ranks()}, PHASES),
        'sheet': contact_sheet({'badnet': [pair(), pair()], 'targeted': [pair()]}),
    }


def legend_of(axis: Axes) -> list[str]:
    legend = axis.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def steps(axis: Axes) -> Any:
    (patch,) = (patch for patch in axis.patches if isinstance(patch, StepPatch))
    return patch.get_data()


def panels(figure: Figure) -> Iterator[Axes]:
    return (axis for axis in figure.axes if axis.axison)


@pytest.mark.parametrize('name', ['success', 'ranks', 'mean', 'split', 'histogram', 'sheet'])
def test_is_written_without_warnings(name: str) -> None:
    file = BytesIO()
    all_figures()[name].savefig(file)
    assert file.getvalue().startswith(b'\x89PNG')


@pytest.mark.parametrize('name', ['success', 'ranks', 'mean', 'split', 'histogram'])
def test_every_panel_labels_its_y_axis_and_the_last_one_its_x_axis(name: str) -> None:
    axes = list(panels(all_figures()[name]))
    assert all(axis.get_ylabel() for axis in axes)
    assert axes[-1].get_xlabel()


@pytest.mark.parametrize('name', ['success', 'ranks', 'mean', 'split', 'histogram'])
def test_legends_lie_beside_their_panels(name: str) -> None:
    figure = all_figures()[name]
    figure.draw_without_rendering()
    for axis in panels(figure):
        legend = axis.get_legend()
        assert legend is not None
        assert legend.get_window_extent().x0 >= axis.get_window_extent().x1
        assert legend.get_window_extent().x1 <= figure.bbox.x1 + 1


def test_labels_fit_into_the_figure() -> None:
    for figure in all_figures().values():
        figure.draw_without_rendering()
        bounds = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert bounds.x0 >= -1 and bounds.y0 >= -1
        assert bounds.x1 <= figure.bbox.x1 + 1 and bounds.y1 <= figure.bbox.y1 + 1


def test_pyplot_does_not_keep_figures() -> None:
    all_figures()
    assert not pyplot.get_fignums()


def test_twelve_attacks_look_different() -> None:
    assert len({(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i in range(12)}) == 12


class TestOverEpochs:
    def test_curves_hold_the_values_given(self) -> None:
        top, bottom = panels(success_and_accuracy({'badnet': attack()}, {'heldout': curve()}, PHASES))
        rate = next(line for line in top.lines if line.get_label() == 'badnet')
        assert np.asarray(rate.get_xdata()).tolist() == EPOCHS
        assert np.asarray(rate.get_ydata()).tolist() == [0.1, 0.2, 0.3]
        assert legend_of(top) == ['badnet', 'badnet, clean images', 'Wilson intervals']
        assert legend_of(bottom) == ['heldout']

    def test_leaves_out_panels_without_values(self) -> None:
        assert len(success_and_accuracy({}, {'heldout': curve()}, PHASES).axes) == 1
        assert len(success_and_accuracy({'badnet': attack()}, {}, PHASES).axes) == 1
        assert len(split_over_epochs(curve(), curve(), {}, 0.0, PHASES).axes) == 1

    def test_shades_the_phases_of_the_whole_plan(self) -> None:
        figure = success_and_accuracy({}, {'heldout': curve()}, PHASES)
        bands = figure.axes[0].patches
        assert [(band.get_x(), band.get_x() + band.get_width()) for band in bands] == [(0, 2), (2, 3), (3, 5)]
        assert len({band.get_facecolor() for band in bands}) == 3
        named = [text.get_text() for text in figure.legends[0].get_texts()]
        assert named == ['unimodal phase', 'slow phase', 'mixed phase']

    def test_names_a_repeated_phase_once(self) -> None:
        figure = success_and_accuracy({}, {'heldout': curve()}, ['a', 'b', 'a', 'b'])
        assert len(figure.axes[0].patches) == 4
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ['a phase', 'b phase']

    def test_a_single_phase_is_not_shaded(self) -> None:
        figure = success_and_accuracy({}, {'heldout': curve()}, ['clip'] * 3)
        assert not figure.axes[0].patches and not figure.legends

    def test_clean_pairs_are_black_and_attacks_keep_their_colors(self) -> None:
        (axis,) = panels(mean_similarity({'clean': curve(), 'a': curve(), 'b': curve()}, {}, PHASES))
        assert [line.get_color() for line in axis.lines] == ['#000000', *COLORS[:2]]

    def test_without_attacks_no_pair_is_called_clean(self) -> None:
        (axis,) = panels(mean_similarity({}, {'clean': curve()}, PHASES))
        assert [line.get_label() for line in axis.lines] == ['all pairs, after an epoch']

    def test_contamination_is_in_percent_beside_the_rate_of_all_pairs(self) -> None:
        split = split_over_epochs(curve(), curve(0.001, 0.002, 0.003), {'badnet': curve()}, 0.01, PHASES)
        values = [np.asarray(line.get_ydata(), float) for line in split.axes[2].lines]
        assert values[0] == pytest.approx([0.1, 0.2, 0.3])
        assert values[1] == pytest.approx([1.0, 1.0])


class TestHistogram:
    def test_densities_add_up_to_one_and_poisons_are_counted(self) -> None:
        poisons = {'badnet': np.arange(20)}  # row 7 has no score
        pairs, marked = similarity_histogram(score(), poisons, MIXTURE, '').axes
        density, edges, _ = steps(pairs)
        assert density @ np.diff(edges) == pytest.approx(1)
        assert steps(marked).values.sum() == 19
        assert legend_of(marked) == ['badnet: 19 poisons']

    def test_components_add_up_to_one(self) -> None:
        wide = np.linspace(-2, 3, 100)
        (axis,) = similarity_histogram(wide, {}, MIXTURE, '').axes
        areas = [trapezoid(*(np.asarray(d, float) for d in line.get_data()[::-1])) for line in axis.lines[:2]]
        assert areas == pytest.approx([0.4, 0.6], abs=1e-3)

    def test_threshold_is_drawn_through_every_panel(self) -> None:
        figure = similarity_histogram(score(), {'badnet': np.arange(9)}, MIXTURE, '')
        for axis in figure.axes:
            assert any(np.asarray(line.get_xdata()).tolist() == [0.4, 0.4] for line in axis.lines)
        assert legend_of(figure.axes[0])[-1] == 'safe from 0.400 on'

    @pytest.mark.parametrize('mixture', [None, {**MIXTURE, 'threshold': float('nan')}])
    def test_is_drawn_without_mixture_or_threshold(self, mixture: dict[str, float] | None) -> None:
        (axis,) = similarity_histogram(score(), {}, mixture, '').axes
        assert not [label for label in legend_of(axis) if label.startswith('safe')]

    def test_shuffled_pairs_are_outlined_and_their_leak_is_said(self) -> None:
        null = {'edges': [-0.5, 0.0, 0.5, 1.5], 'counts': [1, 6, 3], 'threshold': 0.6, 'leak': 0.2}
        (axis,) = similarity_histogram(score(), {}, None, '', null).axes
        pairs, shuffled = (patch.get_data() for patch in axis.patches if isinstance(patch, StepPatch))
        assert pairs.edges.tolist() == null['edges']  # so that they can be compared
        assert shuffled.values == pytest.approx([0.2, 1.2, 0.3])
        assert legend_of(axis)[1:] == ['10 shuffled pairs,\n20.0% of them would\ncount as safe', 'safe from 0.600 on']

    def test_equal_similarities_are_drawn(self) -> None:
        figure = similarity_histogram(np.full(9, 0.3, np.float32), {}, None, '')
        figure.savefig(BytesIO())
        (axis,) = figure.axes
        left, right = axis.get_xlim()
        assert left < 0.3 < right


class TestContactSheet:
    def test_shows_each_pair_under_its_attack(self) -> None:
        figure = contact_sheet({'badnet': [pair('a boat'), pair('two boats')], 'targeted': [pair('a dog', 'dog')]})
        assert [axis.get_xlabel() for axis in figure.axes if axis.images] == ['a boat', 'two boats', 'a dog']
        assert [axis.get_title() for axis in figure.axes if axis.images][-1] == 'target: dog'

    @pytest.mark.parametrize('caption', ['$5 and a_b^c $x', '\\frac{', '%s {}', 'x' * 300, 'word ' * 60, ''])
    def test_captions_are_drawn_as_plain_text(self, caption: str) -> None:
        figure = contact_sheet({'$': [pair(caption, caption)]})
        figure.savefig(BytesIO())
        shown = figure.axes[0].get_xlabel()
        assert len(shown.splitlines()) <= 7 and max(map(len, ['', *shown.splitlines()])) <= 22
