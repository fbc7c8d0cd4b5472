from __future__ import annotations

import pytest
from scipy.stats import ttest_rel

from experiments.paired import difference_table, paired_difference
from experiments.results import Result
from tests.experiments.finished_runs import attacked_result

OURS = {(1, 1): 0.62, (2, 2): 0.58, (3, 3): 0.66, (4, 4): 0.9}
THEIRS = {(1, 1): 0.50, (2, 2): 0.47, (3, 3): 0.51, (5, 5): 0.1}


class TestPairedDifference:
    def test_is_that_of_scipys_paired_t_test_over_the_seeds_of_both(self) -> None:
        shared = [(1, 1), (2, 2), (3, 3)]
        test = ttest_rel([OURS[seeds] for seeds in shared], [THEIRS[seeds] for seeds in shared])
        mean, low, high, seeds = paired_difference(OURS, THEIRS, 0.9)
        assert (low, high) == pytest.approx(test.confidence_interval(0.9)) and seeds == 3
        assert mean == pytest.approx((0.12 + 0.11 + 0.15) / 3)

    def test_of_equal_differences_is_certain(self) -> None:
        assert paired_difference({(1, 1): 0.5, (2, 2): 0.75}, {(1, 1): 0.25, (2, 2): 0.5}) == (0.25, 0.25, 0.25, 2)

    def test_needs_two_seeds(self) -> None:
        assert paired_difference(OURS, {(1, 1): 0.5}) is None


def runs(name: str, hits: dict[int, int], **fields: str) -> list[Result]:
    return [attacked_result(name, seed, count, 100, accuracy=count / 200, **fields) for seed, count in hits.items()]


class TestDifferenceTable:
    def test_pairs_runs_by_their_seeds_and_attacks(self) -> None:
        cells = {'four': {'clip': runs('clip', {1: 90, 2: 70}), 'safe': runs('safe', {2: 30, 1: 50})}}
        head, _, badnet, accuracy, *_ = str(difference_table(cells, 'clip')).splitlines()
        assert head == '| difference from clip | seeds | safe |'
        assert badnet == '| four | 2 | -0.400 [-0.400, -0.400] |'
        assert accuracy == '| zero-shot accuracy (four) | 2 | -0.200 [-0.200, -0.200] |'

    def test_leaves_out_runs_that_are_not_whole_and_methods_without_two_seeds(self) -> None:
        stopped = runs('stopped', {1: 1, 2: 1}, caveat='not finished, in epoch 1 of 4')
        cells = {'': {'clip': runs('clip', {1: 90, 2: 70}), 'stopped': stopped, 'once': runs('once', {1: 5})}}
        assert not difference_table(cells, 'clip')
        cells['']['safe'] = runs('safe', {1: 10, 2: 10})
        assert difference_table(cells, 'clip').rows[0] == ['difference from clip', 'seeds', 'safe']

    def test_is_empty_without_a_reference(self) -> None:
        assert not difference_table({'': {'clip': runs('clip', {1: 90, 2: 70})}}, None)
