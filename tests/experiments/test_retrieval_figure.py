from __future__ import annotations

from dataclasses import replace

import pytest

from datamodules.usage_error import UsageError
from experiments.results import Result
from experiments.retrieval_figure import retrieval_over_epochs
from tests.experiments.finished_runs import attacked_result


def retrieving(name: str, seed: int, rank: float) -> Result:
    series = {'train/loss': [(1, 4.0), (2, 3.0)]}
    for way in ('i2t', 't2i'):
        for what, value in {'medr': rank, 'medr_chance_low': 600, 'medr_chance_high': 700}.items():
            series[f'retrieval/val/{way}_{what}'] = [(1, 500.0 if what == 'medr' else value), (2, value)]
    return Result(name, seed, 2, series, 1.0)


class TestRetrievalOverEpochs:
    def test_has_loss_and_ranks_both_ways_with_what_chance_reaches(self) -> None:
        runs = [retrieving('clean', 1, 90), retrieving('clean', 2, 95), retrieving('MEM-3', 1, 300)]
        figure = retrieval_over_epochs(runs)
        titles = [axis.get_title() for axis in figure.axes]
        assert titles == ['training loss', 'val: picture to text', 'val: text to picture']
        curves = [[tuple(point) for point in line.get_xydata()] for line in figure.axes[1].lines]
        assert curves == [[(1, 500), (2, rank)] for rank in (90, 95, 300)]
        (path,) = figure.axes[1].collections[0].get_paths()
        assert {tuple(corner) for corner in path.vertices.tolist()} == {(1, 600), (1, 700), (2, 600), (2, 700)}
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ['clean', 'MEM-3', 'chance, 95 % band']

    def test_has_a_row_for_each_set_and_no_panel_of_a_loss_that_was_not_logged(self) -> None:
        run = retrieving('clean', 1, 90)
        shown = {name: points for name, points in run.series.items() if name != 'train/loss'}
        second = {name.replace('/val/', '/ours/'): points for name, points in shown.items()}
        run = replace(run, series={**shown, **second})
        places = filter(None, (axis.get_subplotspec() for axis in retrieval_over_epochs([run]).axes))
        assert [(place.rowspan.start, place.colspan.start) for place in places if place] == [
            (0, 0),
            (0, 1),
            (1, 0),
            (1, 1),
        ]

    def test_needs_a_run_that_measured_it(self) -> None:
        with pytest.raises(UsageError, match='--retrieval needs a run with held-out pairs'):
            retrieval_over_epochs([attacked_result('clip', 1, 1, 200)])
