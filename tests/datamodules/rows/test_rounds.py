from __future__ import annotations

import numpy as np
import pytest

from datamodules.rows.rounds import plan_round, share

UNIT = np.repeat(np.arange(40), 5)  # five captions a picture
UNIT[::21] = -1  # some of them left out
ROWS = np.flatnonzero(UNIT >= 0)
BATCH = 16


def sweep(number: int = 0, unit: np.ndarray = UNIT, in_passes: bool = True) -> list[np.ndarray]:
    return plan_round(unit, BATCH, 0, in_passes=in_passes, seed=3, number=number)


class TestSweep:
    @pytest.mark.parametrize('in_passes', [True, False])
    def test_holds_every_row_once_in_batches_of_nearly_equal_size(self, in_passes: bool) -> None:
        batches = sweep(in_passes=in_passes)
        assert sorted(np.concatenate(batches)) == ROWS.tolist()
        sizes = {len(rows) for rows in batches}
        assert max(sizes) <= BATCH and max(sizes) - min(sizes) <= 1

    def test_no_batch_holds_two_rows_of_a_unit(self) -> None:
        for number in range(20):
            assert all(len(set(UNIT[rows])) == len(rows) for rows in sweep(number)[:-2])

    def test_a_batch_of_fewer_units_than_its_size_holds_them_all(self) -> None:
        few = np.repeat(np.arange(3), 20)
        assert all({*few[rows]} == {0, 1, 2} for rows in sweep(unit=few))

    def test_a_pass_takes_a_row_of_each_unit_before_the_next(self) -> None:
        order = UNIT[np.concatenate(sweep())]
        assert sorted(order[:40]) == list(range(40))

    def test_rounds_differ_and_are_repeated_exactly(self) -> None:
        first, again, second = (np.concatenate(sweep(number)) for number in (0, 0, 1))
        assert np.array_equal(first, again) and not np.array_equal(first, second)
        assert not np.array_equal(UNIT[first[:40]], UNIT[second[:40]])


class TestModelSteps:
    def test_come_first_and_are_full(self) -> None:
        batches = plan_round(UNIT, BATCH, 15, in_passes=True, seed=3, number=0)
        drawn = np.concatenate(batches[:15])
        assert {len(rows) for rows in batches[:15]} == {BATCH} and set(drawn) == set(ROWS)  # 240 of 190 rows
        assert [rows.tolist() for rows in batches[15:]] == [rows.tolist() for rows in sweep()]

    def test_differ_from_round_to_round(self) -> None:
        first, second = (plan_round(UNIT, BATCH, 1, in_passes=True, seed=3, number=number)[0] for number in (0, 1))
        assert not np.array_equal(first, second)


@pytest.mark.parametrize('world', [1, 2, 3])
def test_processes_share_each_batch_in_its_order(world: int) -> None:
    batches = plan_round(UNIT, BATCH, 2, in_passes=True, seed=3, number=0)
    shares = [share(batches, rank, world) for rank in range(world)]
    for number, rows in enumerate(batches):
        parts = [of_rank[number].rows for of_rank in shares]
        assert np.array_equal(np.concatenate(parts), rows)
        assert all(draw[number].cross_modal == len(draw[number].rows) for draw in shares)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
