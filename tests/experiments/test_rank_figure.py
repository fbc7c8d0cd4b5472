from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datamodules.usage_error import UsageError
from experiments.rank_figure import ranks_after_training, split_name
from experiments.results import Result
from tests.experiments.finished_runs import attacked_result


def retrieving(name: str, ranks: list[float], seed: int = 1) -> Result:
    """A run whose median ranks in both directions are those after each epoch."""
    series: dict[str, list[tuple[int, float]]] = {}
    for way in ('i2t', 't2i'):
        of_epochs = {'medr': ranks, 'above_chance': [1 - rank / 1000 for rank in ranks]}
        of_epochs |= {'medr_chance_low': [900.0] * len(ranks), 'medr_chance_high': [1100.0] * len(ranks)}
        series |= {f'retrieval/val/{way}_{what}': [*enumerate(values, 1)] for what, values in of_epochs.items()}
    return Result(name, seed, len(ranks), series, 1.0)


class TestRanksAfterTraining:
    def test_have_a_row_for_each_method_and_a_color_for_what_it_was_trained_on(self) -> None:
        runs = [
            retrieving('none-clean', [90, 70]),
            retrieving('none-clean', [95, 80], 2),
            retrieving('none-mem3', [300]),
        ]
        figure = ranks_after_training([*runs, retrieving('jpeg-mem3', [150, 200])])
        both_ways = [axis.get_title() for axis in figure.axes]
        assert both_ways == ['val: picture to text', 'val: text to picture']
        axis = figure.axes[0]
        assert [text.get_text() for text in axis.get_yticklabels()] == ['none', 'jpeg']
        joined: list[Any] = [line for line in axis.lines if np.shape(line.get_xydata()) == (2, 2)]
        ends = [[tuple(point) for point in line.get_xydata()] for line in joined]
        assert ends == [[(70, 0), (70, 0)], [(80, 0), (80, 0)], [(300, 0), (300, 0)], [(200, 1), (150, 1)]]
        clean, again, protected, _ = [line.get_color() for line in joined]
        assert clean == again != protected
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ['chance', 'clean', 'mem3', 'best epoch']

    def test_need_a_run_that_measured_retrieval(self) -> None:
        with pytest.raises(UsageError, match='--ranks needs a run with held-out pairs'):
            ranks_after_training([attacked_result('clip', 1, 1, 200)])


def test_a_name_is_split_at_its_last_hyphen() -> None:
    assert [split_name(name) for name in ('a-b-clean', 'clip')] == [('a-b', 'clean'), ('clip', 'last epoch')]
