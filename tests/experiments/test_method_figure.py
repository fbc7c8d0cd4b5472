from __future__ import annotations

import pytest

from experiments.method_figure import accuracy_against_worst_attack, point_of
from experiments.results import Result
from experiments.table_layout import TableLayout
from tests.experiments.finished_runs import attacked_result

LAYOUT = TableLayout(
    {'plain': {'clip': 'CLIP'}, 'defense': {'safeclip': 'SafeCLIP'}}, {'badnet': 'BadNet', 'wanet': 'W'}
)


def attacked_twice(seed: int, badnet: float, wanet: float, accuracy: float = 0.5) -> Result:
    """A run under two attacks, with a clean rate of 0.1."""
    run = attacked_result('clip', seed, round(200 * badnet), 200, accuracy)
    run.series.update({'asr/wanet/rate': [(4, wanet)], 'asr/wanet/clean': [(4, 0.1)], 'asr/wanet/hits': [(4, 0.0)]})
    return run


class TestPointOf:
    def test_shows_the_attack_that_gets_most_over_all_seeds(self) -> None:
        runs = [attacked_twice(1, badnet=0.5, wanet=0.6, accuracy=0.4), attacked_twice(2, badnet=0.7, wanet=0.4)]
        point = point_of({'': {'clip': runs}}, 'clip', LAYOUT)
        assert point and point.excess == pytest.approx([0.4, 0.6]) and point.accuracy == [0.4, 0.5]
        assert point.center == pytest.approx((0.5, 0.45))

    def test_is_missing_where_an_attack_was_not_measured(self) -> None:
        assert point_of({'': {'clip': [attacked_result('clip', 1, 100, 200)]}}, 'clip', LAYOUT) is None


class TestFigure:
    def test_has_a_named_point_for_each_method_and_a_color_for_each_kind(self) -> None:
        cells = {'': {'clip': [attacked_twice(1, 0.9, 0.5)], 'safeclip': [attacked_twice(1, 0.1, 0.2)]}}
        figure = accuracy_against_worst_attack(cells, LAYOUT)
        assert figure
        (axis,) = figure.axes
        assert {str(line.get_label()): line.get_xydata()[0].tolist() for line in axis.lines} == {
            'plain': pytest.approx([0.8, 0.5]),
            'defense': pytest.approx([0.1, 0.5]),
        }
        assert len({line.get_color() for line in axis.lines}) == 2
        assert [text.get_text() for text in axis.texts] == ['CLIP', 'SafeCLIP']

    def test_a_name_is_no_formula(self) -> None:
        figure = accuracy_against_worst_attack(
            {'': {'clip': [attacked_twice(1, 0.9, 0.5)]}}, TableLayout({'$x_{$': {'clip': '$x_{$'}}, LAYOUT.attacks)
        )
        assert figure
        figure.draw_without_rendering()

    def test_bars_span_the_seeds(self) -> None:
        runs = [attacked_twice(1, 0.9, 0.1, accuracy=0.4), attacked_twice(2, 0.5, 0.1, accuracy=0.6)]
        point = point_of({'': {'clip': runs}}, 'clip', LAYOUT)
        assert point
        expected = ([0.4, 0.5], [0.8, 0.5]), ([0.6, 0.4], [0.6, 0.6])
        assert [[*ends] for ends in point.bars] == [[pytest.approx(end) for end in ends] for ends in expected]

    def test_does_not_exist_without_a_point(self) -> None:
        assert accuracy_against_worst_attack({'': {'clip': [attacked_result('clip', 1, 1, 200)]}}, LAYOUT) is None
