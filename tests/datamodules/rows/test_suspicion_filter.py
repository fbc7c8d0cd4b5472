from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.rows.suspicion_filter import SuspicionFilter
from datamodules.usage_error import UsageError
from tests.datamodules.rows.test_filters import ROWS, rows_kept_by, table, write_ledger


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A ledger in which row r has suspicion r / 10, and the last row none."""
    path = write_ledger(tmp_path / 'ledger.parquet', [*range(ROWS)], [0.5] * ROWS, ['safe'] * ROWS)
    suspicion = pa.array([row / 10 for row in range(ROWS - 1)] + [None], pa.float32())
    pq.write_table(pq.read_table(path).append_column('suspicion', suspicion), path)
    return path


def test_drops_what_stands_out_and_what_has_no_score(file: str, caplog: pytest.LogCaptureFixture) -> None:
    assert rows_kept_by(SuspicionFilter(file)) == [*range(80)]
    assert rows_kept_by(SuspicionFilter(file, least=5)) == [*range(50)]
    assert 'has no score for 1 of 100 pairs, which are dropped' in caplog.text


def test_drops_a_share_of_the_scored_pairs(file: str) -> None:
    assert rows_kept_by(SuspicionFilter(file, drop_share=0.1)) == [*range(89)]


def test_pairs_are_found_in_any_order_of_the_table(file: str) -> None:
    order = np.random.default_rng(1).permutation(ROWS)
    assert (SuspicionFilter(file).drop(table().take(order)) == SuspicionFilter(file).drop(table())[order]).all()


def test_refuses_a_ledger_that_is_of_no_audit(tmp_path: Path) -> None:
    path = write_ledger(tmp_path / 'ledger.parquet', [*range(ROWS)], [0.5] * ROWS, ['safe'] * ROWS)
    with pytest.raises(UsageError, match=r"file='.*' has no suspicion: give the ledger of clipward audit"):
        SuspicionFilter(path).drop(table())


@pytest.mark.parametrize('share', [0, 1, -0.1, float('nan')])
def test_refuses_a_share_that_is_none(share: float) -> None:
    with pytest.raises(UsageError, match='drop_share must lie in'):
        SuspicionFilter('a', drop_share=share)
