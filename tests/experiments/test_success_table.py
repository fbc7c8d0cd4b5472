from __future__ import annotations

from experiments.results import Result
from experiments.success_table import success_table
from tests.experiments.finished_runs import attacked_result


def test_rows_of_the_paper_follow_ours_for_the_same_attacks() -> None:
    table = success_table([attacked_result('clip', 1, 150, 200)])
    assert table.rows[0] == ['run', 'badnet'] and table.rows[1][1].startswith('0.750 [')
    assert table.rows[2] == ['CLIP on CC1M, paper', '1.000'] and table.published == 12


def test_is_empty_without_an_attack_of_the_paper() -> None:
    assert not success_table([Result('clip', 1, 4, {'asr/mine/hits': [(4, 1.0)]}, 1.0)])
