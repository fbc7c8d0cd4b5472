from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.files import shared_columns
from datamodules.files.shared_columns import share_columns
from datamodules.rows.partition import COLUMNS, DROPPED, RISKY, SAFE, Partition


@pytest.fixture(autouse=True)
def no_columns_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_columns, 'MIN_SHARED_BYTES', 0)


def processes(count: int) -> list[Any]:
    """Trainers of the processes of a machine, which are threads here."""
    barrier = Barrier(count)
    strategy = SimpleNamespace(broadcast=lambda name: 'of rank 0', barrier=lambda name: barrier.wait())
    return [SimpleNamespace(local_rank=rank, node_rank=0, strategy=strategy) for rank in range(count)]


def test_what_one_process_writes_the_others_read(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        mapped = [*pool.map(lambda trainer: share_columns(tmp_path / 'cache', 5, COLUMNS, trainer), processes(2))]
    one, other = (Partition(5, 'table', shared) for shared in mapped)
    assert other.side.tolist() == [SAFE] * 5 and other.score.isnan().all() and other.p_value is None
    one.hold(torch.tensor([RISKY, SAFE, SAFE, DROPPED, SAFE], dtype=torch.int8), torch.arange(5.0), torch.ones(5))
    assert other.side.tolist() == [RISKY, SAFE, SAFE, DROPPED, SAFE] and other.score.tolist() == [0, 1, 2, 3, 4]
    assert one.p_value is not None and one.p_value.tolist() == [1] * 5
    assert not [*(tmp_path / 'cache').iterdir()]  # a process that is killed leaves nothing


def test_a_state_is_restored_in_place(tmp_path: Path) -> None:
    before = Partition(3, 'table')
    before.hold(torch.tensor([0, 1, 2], dtype=torch.int8), torch.ones(3), None)
    shared = share_columns(tmp_path, 3, COLUMNS, None)
    assert shared is not None
    after = Partition(3, 'table', shared)
    after.load_state_dict(before.state_dict())
    assert shared['side'].tolist() == [0, 1, 2] and after.p_value is None


def test_small_columns_are_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_columns, 'MIN_SHARED_BYTES', 1000)
    assert share_columns(tmp_path, 100, COLUMNS, None) is None and not [*tmp_path.iterdir()]
