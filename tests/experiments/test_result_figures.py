from __future__ import annotations

import pytest

from datamodules.usage_error import UsageError
from experiments.result_figures import success_against_accuracy, success_over_epochs
from experiments.results import Result
from tests.experiments.finished_runs import attacked_result


class TestSuccessOverEpochs:
    def test_has_a_panel_for_each_attack_and_one_for_accuracy(self) -> None:
        names = (('clip', 1), ('clip', 2), ('safeclip', 1))
        figure = success_over_epochs([attacked_result(name, seed, 1, 200) for name, seed in names])
        assert [axis.get_title() for axis in figure.axes] == ['badnet: attack success rate', 'zero-shot accuracy']
        assert all(len(axis.lines) == 3 for axis in figure.axes)
        labels = [line.get_label() for line in figure.axes[0].lines]
        assert [label for label in labels if not str(label).startswith('_')] == ['clip', 'safeclip']

    def test_has_at_most_three_panels_in_a_row(self) -> None:
        run = attacked_result('clip', 1, 1, 200)
        for attack in ('a', 'b', 'c'):
            run.series.update({f'asr/{attack}/hits': [(4, 1.0)], f'asr/{attack}/rate': [(4, 0.5)]})
        grid = success_over_epochs([run]).axes[0].get_gridspec()
        assert (grid.nrows, grid.ncols, len(success_over_epochs([run]).axes)) == (2, 3, 5)

    def test_names_runs_that_the_first_panel_does_not_show(self) -> None:
        diverged = Result('lost', 1, 4, {}, 1.0, caveat='diverged')
        plain = Result('plain', 1, 4, {'zero_shot/heldout': [(4, 0.5)]}, 1.0, caveat='not finished')
        figure = success_over_epochs([diverged, attacked_result('clip', 1, 1, 200), plain])
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ['clip', 'plain*']
        assert success_over_epochs([diverged]).legends == []

    def test_shades_the_interval_of_a_run_without_repetitions(self) -> None:
        run, other = attacked_result('clip', 1, 1, 200), attacked_result('clip', 2, 1, 200)
        run.series.update({'asr/badnet/low': [(4, 0.001), (5, 0.2)], 'asr/badnet/high': [(4, 0.03), (5, 0.4)]})
        assert not success_over_epochs([run, other]).axes[0].collections
        (band,) = success_over_epochs([run]).axes[0].collections
        (path,) = band.get_paths()
        corners = {tuple(corner.tolist()) for corner in path.vertices}
        assert corners == {(4, 0.001), (4, 0.03), (5, 0.2), (5, 0.4)}


def test_success_against_accuracy_has_a_point_for_each_run() -> None:
    runs = [
        attacked_result('clip', 1, 150, 200, accuracy=0.4),
        attacked_result('clip', 2, 1, 200),
        attacked_result('safeclip', 1, 0, 200),
    ]
    (axis,) = success_against_accuracy(runs).axes
    points = {str(line.get_label()): [tuple(point) for point in line.get_xydata()] for line in axis.lines}
    assert points == {'clip': [(0.4, 0.75), (0.5, 0.005)], 'safeclip': [(0.5, 0.0)]}
    assert 0.75 < axis.get_ylim()[1] < 0.9  # no room for rates that no run has


def test_success_against_accuracy_needs_an_attack() -> None:
    with pytest.raises(UsageError, match='--trade-off needs a run that measured an attack'):
        success_against_accuracy([Result('plain', 1, 4, {'zero_shot/a': [(4, 0.5)]}, 1.0)])
