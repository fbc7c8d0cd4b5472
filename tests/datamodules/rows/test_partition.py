from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.rows.partition import (
    DROPPED,
    RISKY,
    SAFE,
    Draw,
    Order,
    Partition,
    PartitionSampler,
    endless,
    safe_share,
    steps_of_sides,
)
from datamodules.usage_error import UsageError

ORDERS: tuple[Order, ...] = ('interleaved', 'sequential', 'joint')


def split(*side: int) -> Partition:
    partition = Partition(len(side), 'table')
    partition.side = torch.tensor(side, dtype=torch.int8)
    return partition


class TestPartition:
    def test_trusts_every_pair_to_begin_with(self) -> None:
        partition = Partition(5, 'table')
        assert len(partition) == 5
        assert partition.rows(SAFE).tolist() == [0, 1, 2, 3, 4]
        assert partition.share == 1
        assert partition.score.isnan().all()
        assert partition.mixture is None and partition.scored_after is None

    def test_rows_of_each_side_are_ascending_and_disjoint(self) -> None:
        partition = split(RISKY, SAFE, DROPPED, SAFE, RISKY)
        assert [partition.rows(side).tolist() for side in (SAFE, RISKY, DROPPED)] == [[1, 3], [0, 4], [2]]
        assert partition.rows(SAFE).dtype == torch.int64

    def test_share_leaves_dropped_pairs_out(self) -> None:
        assert split(SAFE, RISKY, RISKY, DROPPED, DROPPED).share == pytest.approx(1 / 3)
        assert split(DROPPED, DROPPED).share == 0

    def test_state_survives_a_file_that_is_loaded_safely(self, tmp_path: Path) -> None:
        partition = split(SAFE, RISKY, DROPPED)
        partition.score = torch.tensor([0.5, -0.1, float('nan')])
        partition.epoch, partition.scored_after, partition.mixture = 7, 6, {'mean_low': 0.1, 'threshold': 0.3}
        torch.save(partition.state_dict(), tmp_path / 'state')
        restored = Partition(3, 'table')
        restored.load_state_dict(torch.load(tmp_path / 'state', weights_only=True))
        assert torch.equal(restored.side, partition.side)
        assert restored.side.dtype == torch.int8
        torch.testing.assert_close(restored.score, partition.score, rtol=0, atol=0, equal_nan=True)
        assert (restored.epoch, restored.scored_after, restored.mixture) == (7, 6, partition.mixture)

    @pytest.mark.parametrize(('score', 'scored_after'), [(0.5, 7), (float('nan'), None)])
    def test_a_state_without_a_version_is_converted(self, score: float, scored_after: int | None) -> None:
        partition = split(SAFE, RISKY)
        partition.score[0], partition.epoch = score, 7
        state = partition.state_dict()
        del state['version'], state['scored_after']
        restored = Partition(2, 'table')
        restored.load_state_dict(state)
        assert (restored.epoch, restored.scored_after) == (7, scored_after)
        assert torch.equal(restored.side, partition.side)

    def test_a_state_of_a_later_version_is_refused(self) -> None:
        state = {**split(SAFE).state_dict(), 'version': 3}
        with pytest.raises(UsageError, match=r'version 3 of a partition, this release reads up to 2'):
            Partition(1, 'table').load_state_dict(state)

    def test_state_is_a_copy(self) -> None:
        partition = split(SAFE, SAFE)
        state = partition.state_dict()
        partition.side[0] = RISKY
        assert state['side'].tolist() == [SAFE, SAFE]
        partition.load_state_dict(state)
        state['side'][1] = RISKY
        assert partition.side.tolist() == [SAFE, SAFE]

    @pytest.mark.parametrize(('rows', 'fingerprint'), [(4, 'table'), (3, 'another')])
    def test_refuses_the_split_of_other_data(self, rows: int, fingerprint: str) -> None:
        with pytest.raises(ValueError, match=r'partition of 3 pairs \(table\).*model.init_from instead of ckpt_path'):
            Partition(rows, fingerprint).load_state_dict(split(SAFE, SAFE, RISKY).state_dict())


class TestStepsOfSides:
    @pytest.mark.parametrize(('safe', 'expected'), [(114, (2, 13)), (244, (4, 11)), (524, (8, 7)), (1000, (15, 0))])
    def test_sides_share_the_steps_of_the_paper_s_epochs(self, safe: int, expected: tuple[int, int]) -> None:
        # 1,000 pairs in batches of 64. Released code drops the rest of each side: 13 + 1, 11 + 3, 7 + 8.
        assert steps_of_sides(safe, 1000 - safe, 15) == expected

    def test_a_side_smaller_than_a_batch_is_not_lost(self) -> None:
        assert steps_of_sides(114, 886, 7) == (1, 6)  # in batches of 128; the released code trains no safe pair
        assert steps_of_sides(1, 999, 7) == (1, 6)
        assert steps_of_sides(999, 1, 7) == (6, 1)

    @pytest.mark.parametrize('safe', [0, 1, 5, 50, 99, 100])
    @pytest.mark.parametrize('steps', [1, 2, 3, 25])
    @pytest.mark.parametrize('weight', [0.01, 1.0, 7.5, 1e6])
    def test_steps_add_up(self, safe: int, steps: int, weight: float) -> None:
        on_safe, on_risky = steps_of_sides(safe, 100 - safe, steps, weight)
        assert on_safe + on_risky == steps
        assert (on_safe == 0) == (safe == 0)
        if steps > 1:
            assert (on_risky == 0) == (safe == 100)

    def test_a_weight_draws_safe_pairs_more_often(self) -> None:
        assert steps_of_sides(100, 300, 40) == (10, 30)
        assert steps_of_sides(100, 300, 40, safe_weight=3) == (20, 20)
        assert safe_share(100, 300, 3) == 0.5


class TestEndless:
    @pytest.mark.parametrize('count', [0, 1, 9, 10, 11, 34])
    def test_draws_each_row_before_any_a_second_time(self, count: int) -> None:
        drawn = endless(np.arange(50, 60), count, np.random.default_rng(0))
        assert len(drawn) == count
        for start in range(0, count, 10):
            part = drawn[start : start + 10].tolist()
            assert len(set(part)) == len(part)
            assert set(part) <= set(range(50, 60))

    def test_orders_differ_from_round_to_round(self) -> None:
        drawn = endless(np.arange(20), 40, np.random.default_rng(0))
        assert drawn[:20].tolist() != drawn[20:].tolist()

    def test_nothing_of_an_empty_side(self) -> None:
        assert endless(np.empty(0, np.int64), 0, np.random.default_rng(0)).tolist() == []


def sampler(safe: int = 30, risky: int = 70, steps: int = 8, batch_size: int = 12, **kwargs: Any) -> PartitionSampler:
    """Safe rows are even, risky ones odd."""
    settings = {'seed': 0, 'epoch': 3, **kwargs}
    return PartitionSampler(2 * np.arange(safe), 2 * np.arange(risky) + 1, steps, batch_size, **settings)


def plain(draws: list[Draw]) -> list[tuple[list[int], int]]:
    return [(draw.rows.tolist(), draw.cross_modal) for draw in draws]


@pytest.mark.parametrize('order', ORDERS)
class TestSampler:
    def test_is_a_pure_function_of_its_arguments(self, order: Order) -> None:
        first = sampler(order=order)
        np.random.seed(1)
        torch.manual_seed(1)
        assert plain(list(first)) == plain(list(first)) == plain(list(sampler(order=order)))

    @pytest.mark.parametrize('changed', [{'seed': 1}, {'epoch': 4}])
    def test_seed_and_epoch_change_the_order(self, order: Order, changed: dict[str, int]) -> None:
        assert plain(list(sampler(order=order))) != plain(list(sampler(order=order, **changed)))

    def test_says_how_many_batches_there_are(self, order: Order) -> None:
        assert len(sampler(order=order)) == len(list(sampler(order=order))) == 8

    def test_the_first_rows_of_a_batch_are_the_safe_ones(self, order: Order) -> None:
        for rows, safe in sampler(order=order):
            assert len(rows) == 12
            assert (rows[:safe] % 2 == 0).all()
            assert (rows[safe:] % 2 == 1).all()

    @pytest.mark.parametrize(('safe', 'risky'), [(30, 70), (5, 95), (95, 5), (100, 0), (0, 100), (1, 1)])
    def test_draws_each_row_of_a_side_before_any_a_second_time(self, order: Order, safe: int, risky: int) -> None:
        drawn = Counter(np.concatenate([draw.rows for draw in sampler(safe, risky, order=order)]).tolist())
        for rows in (range(0, 2 * safe, 2), range(1, 2 * risky, 2)):
            counts = [drawn[row] for row in rows]
            assert not counts or max(counts) - min(counts) <= 1
        assert sum(drawn.values()) == 96

    @pytest.mark.parametrize('world', [2, 3, 4])
    @pytest.mark.parametrize(('safe', 'risky'), [(30, 70), (100, 0), (0, 100), (2, 98)])
    def test_ranks_share_the_batches_of_one_process(self, order: Order, world: int, safe: int, risky: int) -> None:
        whole = list(sampler(safe, risky, order=order))
        ranks = [list(sampler(safe, risky, order=order, rank=rank, world=world)) for rank in range(world)]
        assert {len(rank) for rank in ranks} == {8}
        for step, draw in enumerate(whole):
            parts = [rank[step] for rank in ranks]
            assert {len(part.rows) for part in parts} == {12 // world}
            assert len({part.cross_modal for part in parts}) == 1  # or one rank would wait for another's gather
            if order != 'joint':  # there, sides are rounded to whole numbers on every rank
                union = Counter(np.concatenate([part.rows for part in parts]).tolist())
                assert union == Counter(draw.rows.tolist())

    @pytest.mark.parametrize('world', [2, 3])
    def test_no_pair_is_on_two_ranks_in_one_step(self, order: Order, world: int) -> None:
        ranks = [list(sampler(40, 80, order=order, rank=rank, world=world)) for rank in range(world)]
        for parts in zip(*ranks, strict=True):
            rows = np.concatenate([part.rows for part in parts])
            assert len(np.unique(rows)) == len(rows)

    @pytest.mark.parametrize(('safe', 'risky'), [(100, 0), (0, 100)])
    def test_one_side_alone_fills_every_batch(self, order: Order, safe: int, risky: int) -> None:
        assert {draw.cross_modal for draw in sampler(safe, risky, order=order)} == {12 if safe else 0}

    def test_a_weight_draws_safe_pairs_more_often(self, order: Order) -> None:
        shares = [sum(draw.cross_modal for draw in sampler(order=order, safe_weight=weight)) for weight in (1.0, 4.0)]
        assert shares[1] > 1.5 * shares[0]


class TestOrder:
    def test_interleaved_batches_are_of_one_side_in_random_order(self) -> None:
        plans = [[draw.cross_modal for draw in sampler(40, 60, 20, epoch=epoch)] for epoch in range(3)]
        for plan in plans:
            assert Counter(plan) == {12: 8, 0: 12}
            assert plan != sorted(plan)
        assert plans[0] != plans[1]

    def test_sequential_batches_are_risky_first(self) -> None:
        assert [draw.cross_modal for draw in sampler(40, 60, 10, order='sequential')] == [0] * 6 + [12] * 4

    def test_joint_batches_hold_both_sides_by_their_share(self) -> None:
        assert {draw.cross_modal for draw in sampler(30, 70, 8, 20, order='joint')} == {6}
        assert {draw.cross_modal for draw in sampler(30, 70, 8, 20, order='joint', rank=1, world=2)} == {3}

    @pytest.mark.parametrize('steps', [1, 2, 3])
    def test_few_steps_do_not_change_the_share_of_a_joint_batch(self, steps: int) -> None:
        assert {draw.cross_modal for draw in sampler(30, 70, steps, 20, order='joint')} == {6}

    @pytest.mark.parametrize(('safe', 'risky', 'expected'), [(2, 998, 2), (998, 2, 18)])
    def test_a_joint_batch_holds_at_least_two_pairs_of_each_side(self, safe: int, risky: int, expected: int) -> None:
        """With one, its loss would contrast nothing."""
        assert {draw.cross_modal for draw in sampler(safe, risky, 4, 20, order='joint')} == {expected}
        assert {draw.cross_modal for draw in sampler(safe, risky, 4, 20, order='joint', world=2)} == {expected // 2}

    @pytest.mark.parametrize(('size', 'world'), [(2, 2), (2, 1), (3, 1)])
    def test_too_small_a_joint_batch_falls_back_to_batches_of_one_side(self, size: int, world: int) -> None:
        draws = sorted(draw.cross_modal for draw in sampler(30, 70, 10, size, order='joint', world=world))
        assert draws == [0] * 7 + [size // world] * 3


def test_the_first_batches_do_not_change_from_release_to_release() -> None:
    first = list(PartitionSampler(np.arange(6), np.arange(6, 20), 4, 4, seed=0, epoch=0))
    assert plain(first) == [
        ([9, 8, 17, 19], 0),
        ([12, 6, 16, 10], 0),
        ([18, 13, 11, 7], 0),
        ([5, 3, 2, 4], 4),
    ]
