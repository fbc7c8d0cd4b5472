from __future__ import annotations

import pytest

from datamodules.usage_error import UsageError
from experiments.cost_tables import epoch_table, overhead_table
from experiments.published import MARK
from experiments.results import Result
from tests.experiments.finished_runs import timed_result

CLIP = timed_result('clip', 1, {'clip': [10.0] * 4}, {}, views=1)
SAFECLIP = timed_result('safeclip', 1, {'unimodal': [16.0], 'mixed': [12.0] * 3}, {1: 3.5, 2: 1.0, 3: 1.5}, views=2)


def ours(rows: list[list[str]]) -> list[list[str]]:
    return [row for row in rows[1:] if MARK not in ', '.join(row[:2])]


class TestEpochTable:
    def test_has_the_epochs_of_each_phase_and_the_splits_over_an_epoch_of_the_reference(self) -> None:
        table = epoch_table([CLIP, SAFECLIP], 'clip')
        assert table.rows[0][4] == 'over an epoch of clip'
        assert ours(table.rows) == [
            ['clip', 'clip epoch', '4', '10.00', '1.00', '1.00', '1.00'],
            ['safeclip', 'unimodal epoch', '1', '16.00', '1.60', '2.00', '0.80'],  # of two views each
            ['safeclip', 'mixed epoch', '3', '12.00', '1.20', '2.00', '0.60'],
            ['safeclip', 'first split', '1', '3.50', '0.35', '-', '-'],
            ['safeclip', 'later split', '2', '1.25', '0.12', '-', '-'],
        ]

    def test_ends_with_the_rows_of_the_paper(self) -> None:
        table = epoch_table([CLIP], 'clip')
        assert table.rows[-2] == ['paper', 'SafeCLIP, later split', '-', '-', '0.10', '-', '-']
        assert [table.is_published(row) for row in table.rows[1:3]] == [False, True]

    def test_repetitions_are_averaged(self) -> None:
        other = timed_result('clip', 2, {'clip': [20.0] * 4}, {}, views=1)
        assert ours(epoch_table([CLIP, other], 'clip').rows) == [
            ['clip', 'clip epoch', '4', '15.00', '1.00', '1.00', '1.00']
        ]

    def test_of_an_earlier_release_has_all_epochs_in_one_row(self) -> None:
        old = Result('old', 1, 2, {'cost/train_s': [(1, 10.0), (2, 20.0)]}, 30.0)
        assert ours(epoch_table([old], 'old').rows) == [['old', 'epoch', '2', '15.00', '1.00', '-', '-']]

    def test_needs_the_time_of_the_reference(self) -> None:
        with pytest.raises(UsageError, match=r'no time of untimed was measured: train with callbacks\.epoch_cost'):
            epoch_table([Result('untimed', 1, 2, {}, 0.0), CLIP], 'untimed')


class TestOverheadTable:
    def test_counts_all_epochs_each_view_and_as_the_paper_does(self) -> None:
        (row,) = ours(overhead_table([CLIP, SAFECLIP], 'clip').rows)
        # 58 seconds over 4 epochs of 10, over 4 of two views, and over the 3 that follow the first split
        assert row == ['safeclip', '4', '58', '+45.0%', '-27.5%', '+93.3%']

    def test_a_run_without_epochs_after_a_split_has_no_overhead_over_them(self) -> None:
        stopped = timed_result('stopped', 1, {'unimodal': [10.0]}, {1: 5.0}, views=2)
        (row,) = ours(overhead_table([CLIP, stopped], 'clip').rows)
        assert row == ['stopped', '1', '15', '+50.0%', '-25.0%', '-']

    def test_leaves_out_runs_that_were_not_timed(self) -> None:
        assert not ours(overhead_table([CLIP, Result('untimed', 1, 2, {}, 0.0)], 'clip').rows)
