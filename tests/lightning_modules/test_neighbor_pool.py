from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_modules.neighbor_pool import NeighborPool
from tests.helpers.tiny import unit_rows


def batch(number: int, size: int) -> Tensor:
    """Rows that carry their label, ``number.place``, in the only column."""
    return torch.tensor([[number + place / 10] for place in range(size)])


def after_batches(size: int, count: int, batch_size: int = 2) -> NeighborPool:
    pool = NeighborPool(size, 1)
    for number in range(count):
        pool.enqueue(batch(number, batch_size))
    return pool


def labels(pool: NeighborPool) -> list[float]:
    return [pytest.approx(value) for value in pool.rows[:, 0].tolist()]


class TestEnqueue:
    @pytest.mark.parametrize(
        ('batches', 'expected', 'position', 'filled'),
        [
            (1, [0.0, 0.1, 0, 0, 0], 2, 2),
            (3, [2.1, 0.1, 1.0, 1.1, 2.0], 1, 5),
            (4, [2.1, 3.0, 3.1, 1.1, 2.0], 3, 5),
        ],
    )
    def test_the_oldest_make_room(self, batches: int, expected: list[float], position: int, filled: int) -> None:
        pool = after_batches(5, batches)
        assert expected == labels(pool)
        assert (int(pool.position), int(pool.filled)) == (position, filled)

    def test_of_a_batch_larger_than_the_pool_the_last_stay(self) -> None:
        pool = after_batches(3, 1, batch_size=5)
        assert sorted(pool.rows[:, 0].tolist()) == pytest.approx([0.2, 0.3, 0.4])
        assert labels(pool) == [pytest.approx(x) for x in (0.3, 0.4, 0.2)]  # the next to go is the oldest of them
        assert int(pool.position) == 2
        pool.enqueue(batch(1, 1))
        assert 0.2 not in labels(pool)

    def test_keeps_no_graph_and_full_precision(self) -> None:
        pool = NeighborPool(4, 3)
        pool.enqueue(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True))
        assert pool.rows.dtype == torch.float32
        assert not pool.rows.requires_grad


class TestNearest:
    def test_is_the_query_itself_while_there_is_nothing_else(self) -> None:
        query = unit_rows(3, 4, seed=0).float().requires_grad_()
        near = NeighborPool(5, 4).nearest(query)
        assert torch.equal(near, query)
        assert not near.requires_grad

    def test_is_the_row_of_largest_cosine(self) -> None:
        pool = NeighborPool(3, 2)
        pool.enqueue(torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
        near = pool.nearest(torch.tensor([[0.8, 0.6], [0.6, 0.8], [-0.6, 0.8], [-0.8, 0.6]]))
        assert near.tolist() == [[1, 0], [0, 1], [0, 1], [-1, 0]]

    def test_never_is_a_row_that_was_not_filled_yet(self) -> None:
        pool = NeighborPool(5, 2)
        pool.enqueue(torch.tensor([[1.0, 0]]))
        assert pool.nearest(torch.tensor([[-1.0, 0]])).tolist() == [[1, 0]]  # although an empty row is closer

    def test_gives_a_copy_that_later_batches_do_not_change(self) -> None:
        pool = NeighborPool(1, 2)
        pool.enqueue(torch.tensor([[1.0, 0]]))
        near = pool.nearest(torch.tensor([[1.0, 0]]))
        pool.enqueue(torch.tensor([[0.0, 1]]))
        assert near.tolist() == [[1, 0]]


def test_state_holds_rows_position_and_fill() -> None:
    pool, restored = after_batches(5, 4), NeighborPool(5, 1)
    restored.load_state_dict(pool.state_dict())
    for other in (pool, restored):
        other.enqueue(batch(4, 2))
    assert torch.equal(restored.rows, pool.rows)
    assert restored.position == pool.position
    assert restored.filled == pool.filled == 5


def test_has_no_parameters() -> None:
    assert not list(NeighborPool(5, 2).parameters())


def test_refuses_to_be_empty() -> None:
    with pytest.raises(ValueError, match='pool_size must be at least 1, got 0'):
        NeighborPool(0, 2)
