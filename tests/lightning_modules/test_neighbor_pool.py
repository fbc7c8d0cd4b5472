from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.usage_error import UsageError
from lightning_modules.neighbor_pool import NeighborPool, NeighborPools
from tests.helpers.tiny import unit_rows


def batch(number: int, size: int) -> Tensor:
    """Rows whose only column is their label, ``number.position``."""
    return torch.tensor([[number + place / 10] for place in range(size)])


def pool_after(size: int, count: int, batch_size: int = 2) -> NeighborPool:
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
    def test_new_rows_replace_the_oldest(self, batches: int, expected: list[float], position: int, filled: int) -> None:
        pool = pool_after(5, batches)
        assert expected == labels(pool)
        assert (int(pool.position), int(pool.filled)) == (position, filled)

    def test_a_batch_larger_than_the_pool_keeps_its_last_rows(self) -> None:
        pool = pool_after(3, 1, batch_size=5)
        assert sorted(pool.rows[:, 0].tolist()) == pytest.approx([0.2, 0.3, 0.4])
        assert labels(pool) == [pytest.approx(x) for x in (0.3, 0.4, 0.2)]  # the oldest of them is replaced next
        assert int(pool.position) == 2
        pool.enqueue(batch(1, 1))
        assert 0.2 not in labels(pool)

    def test_stores_rows_without_graph_in_full_precision(self) -> None:
        pool = NeighborPool(4, 3)
        pool.enqueue(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True))
        assert pool.rows.dtype == torch.float32
        assert not pool.rows.requires_grad


class TestNearest:
    def test_an_empty_pool_returns_the_query(self) -> None:
        query = unit_rows(3, 4, seed=0).float().requires_grad_()
        near, index = NeighborPool(5, 4).nearest(query)
        assert torch.equal(near, query)
        assert index.tolist() == [-1, -1, -1] and index.dtype == torch.int64
        assert not near.requires_grad

    def test_returns_the_row_with_the_largest_cosine(self) -> None:
        pool = NeighborPool(3, 2)
        pool.enqueue(torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
        near, index = pool.nearest(torch.tensor([[0.8, 0.6], [0.6, 0.8], [-0.6, 0.8], [-0.8, 0.6]]))
        assert near.tolist() == [[1, 0], [0, 1], [0, 1], [-1, 0]]
        assert index.tolist() == [0, 1, 1, 2]

    @pytest.mark.parametrize('tile_size', [1, 3, 8])
    def test_tiles_change_nothing(self, tile_size: int) -> None:
        pool, query = NeighborPool(20, 4), unit_rows(8, 4, seed=0).float()
        pool.enqueue(unit_rows(20, 4, seed=1).float())
        near, index = pool.nearest(query, tile_size)
        assert torch.equal(index, (query @ pool.rows.T).argmax(1)) and torch.equal(near, pool.rows[index])

    def test_never_returns_an_empty_row(self) -> None:
        pool = NeighborPool(5, 2)
        pool.enqueue(torch.tensor([[1.0, 0]]))
        near, index = pool.nearest(torch.tensor([[-1.0, 0]]))
        assert near.tolist() == [[1, 0]] and index.tolist() == [0]  # although an empty row is closer

    def test_returns_a_copy_that_later_batches_do_not_change(self) -> None:
        pool = NeighborPool(1, 2)
        pool.enqueue(torch.tensor([[1.0, 0]]))
        near, _ = pool.nearest(torch.tensor([[1.0, 0]]))
        pool.enqueue(torch.tensor([[0.0, 1]]))
        assert near.tolist() == [[1, 0]]


def test_state_holds_rows_position_and_fill() -> None:
    pool, restored = pool_after(5, 4), NeighborPool(5, 1)
    restored.load_state_dict(pool.state_dict())
    for other in (pool, restored):
        other.enqueue(batch(4, 2))
    assert torch.equal(restored.rows, pool.rows)
    assert restored.position == pool.position
    assert restored.filled == pool.filled == 5


def test_remembers_its_place_until_another_state_is_loaded() -> None:
    pool = pool_after(5, 1)
    pool.load_state_dict(pool_after(5, 3).state_dict())
    pool.enqueue(batch(3, 2))
    assert labels(pool) == labels(pool_after(5, 4))
    assert pool.position == 3


def test_a_step_never_waits_for_the_device() -> None:
    pool = pool_after(5, 1).to('meta')  # where asking for a value raises
    near, _ = pool.nearest(torch.zeros(3, 1, device='meta'))
    pool.enqueue(near)
    assert near.shape == (3, 1)


def test_has_no_parameters() -> None:
    assert not list(NeighborPool(5, 2).parameters())


def test_refuses_a_size_of_zero() -> None:
    with pytest.raises(ValueError, match='pool_size must be at least 1, got 0'):
        NeighborPool(0, 2)


def pools(size: Any = 16, pairs: int = 1000, names: tuple[str, ...] = ('image', 'text')) -> NeighborPools:
    return NeighborPools.for_data(names, size, dim=3, pairs=pairs, batch_size=8)


def weights_of(source: NeighborPools) -> dict[str, Tensor]:
    """Weights as in a checkpoint, beside another entry with a similar name."""
    return {'towers.rows': torch.zeros(1), **{f'pools.{name}': value for name, value in source.state_dict().items()}}


class TestPools:
    @pytest.mark.parametrize(
        ('size', 'pairs', 'rows'),
        [('auto', 100_000, 2000), ('auto', 82, 32), ('auto', 12_000_000, 65_536), (8, 82, 8), (100, 82, 100)],
    )
    def test_have_the_requested_size(self, size: Any, pairs: int, rows: int) -> None:
        shapes = {name: tuple(pool.rows.shape) for name, pool in pools(size, pairs).items()}
        assert shapes == {'image': (rows, 3), 'text': (rows, 3)}

    def test_size_zero_gives_no_pools(self) -> None:
        assert not pools(0)

    @pytest.mark.parametrize('size', [7, -1])
    def test_must_not_be_smaller_than_a_batch(self, size: int) -> None:
        with pytest.raises(UsageError, match=rf'model.pool_size={size} is smaller than a batch of 8.*or auto'):
            pools(size)

    def test_name_their_buffers_within_the_module(self) -> None:
        module = torch.nn.Module()
        module.pools = pools(names=('text',))
        assert module.pools.buffer_names('pools') == ['pools.text.rows', 'pools.text.position', 'pools.text.filled']
        assert sorted(module.pools.buffer_names('pools')) == sorted(name for name, _ in module.named_buffers())

    @pytest.mark.parametrize('is_training', [True, False])
    def test_of_the_same_size_are_kept_when_a_checkpoint_is_loaded(self, is_training: bool) -> None:
        resumed = pools()
        before = resumed['image']
        resumed.adopt(weights_of(pools()), 'pools', is_training=is_training)
        assert resumed['image'] is before

    @pytest.mark.parametrize(('stored', 'size'), [(16, 16), (0, 0)])
    def test_of_another_size_cannot_resume_training(self, stored: int, size: int) -> None:
        message = rf'holds pools of {size} embeddings and this run makes them 32: resume with the model.pool_size'
        with pytest.raises(UsageError, match=message):
            pools(32).adopt(weights_of(pools(stored)), 'pools', is_training=True)

    @pytest.mark.parametrize('stored', [16, 0])
    def test_take_the_size_of_the_checkpoint_if_nothing_is_trained(self, stored: int) -> None:
        resumed = NeighborPools()
        resumed.adopt(weights_of(pools(stored)), 'pools', is_training=False)
        assert {name: len(pool.rows) for name, pool in resumed.items()} == ({'image': 16, 'text': 16} if stored else {})
