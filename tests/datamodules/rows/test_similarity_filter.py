from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.rows.similarity_filter import SimilarityFilter
from datamodules.usage_error import UsageError
from tests.datamodules.rows.test_filters import ROWS, rows_kept_by, write_ledger


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Similarities that rise with the row; the last pair was not scored, and the cut of the mixture is 0.7."""
    similarity: list[float | None] = [*(row / ROWS for row in range(ROWS - 1)), None]
    side = ['risky'] * 70 + ['safe'] * 29 + ['dropped']
    return write_ledger(tmp_path / 'ledger.parquet', [*range(ROWS)], similarity, side)


@pytest.mark.parametrize(
    ('arguments', 'kept'),
    [({}, range(70, 99)), ({'threshold': 0.28}, range(28, 99)), ({'quantile': 0.1}, range(9, 99))],
)
def test_keeps_what_is_similar_enough(file: str, arguments: dict[str, float], kept: range) -> None:
    assert rows_kept_by(SimilarityFilter(file, **arguments)) == [*kept]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'threshold': 0.3, 'quantile': 0.1}, 'data.filters: threshold and quantile exclude each other'),
        ({'threshold': 1.0}, r'data.filters: threshold must lie in \(-1, 1\), got 1.0'),
        ({'quantile': 0.0}, r'data.filters: quantile must lie in \(0, 1\), got 0.0'),
    ],
)
def test_refuses_a_rule_that_decides_nothing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SimilarityFilter('ledger.parquet', **arguments)
