from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.rows.decisions import DecisionsFilter
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from tests.datamodules.rows.test_filters import ROWS, rows_kept_by, table


def write(folder: Path, **changes: Any) -> str:
    """A file of decisions on the table, as a page saves it."""
    decided = {'keep': [3], 'drop': [0, 7, 99], 'unsure': [5]}
    head = {'format': 'clipward.decisions', 'version': 1, 'fingerprint': table().fingerprint}
    content = {name: value for name, value in {**head, **decided, **changes}.items() if value is not None}
    (folder / 'decisions.json').write_text(json.dumps(content))
    return str(folder / 'decisions.json')


def refusal(file: str, pairs: PairTable | None = None) -> str:
    with pytest.raises(UsageError) as error:
        DecisionsFilter(file).drop(table() if pairs is None else pairs)
    return str(error.value)


def test_drops_what_was_marked_and_keeps_all_others(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert rows_kept_by(DecisionsFilter(file)) == [row for row in range(ROWS) if row not in (0, 7, 99)]
    assert rows_kept_by(DecisionsFilter(file, unsure='drop')) == [r for r in range(ROWS) if r not in (0, 5, 7, 99)]


def test_a_kind_of_decision_may_be_missing(tmp_path: Path) -> None:
    assert len(rows_kept_by(DecisionsFilter(write(tmp_path, drop=None, unsure=None)))) == ROWS


def test_refuses_decisions_on_another_data_set(tmp_path: Path) -> None:
    file, order = write(tmp_path), np.arange(ROWS)[::-1]
    for other in (table().take(order), table(ROWS - 1)):
        assert 'holds decisions on another data set, or on this one before it was changed' in refusal(file, other)
    assert 'another data set' in refusal(write(tmp_path, fingerprint=None))


@pytest.mark.parametrize('row', [100, -1, 1.0, '3', True, None, [4]])
def test_refuses_a_decision_on_a_row_that_is_not_there(row: Any, tmp_path: Path) -> None:
    assert f'decides drop on row {row!r}, but the 100 rows begin with 0' in refusal(write(tmp_path, drop=[2, row]))


def test_refuses_two_decisions_on_one_row(tmp_path: Path) -> None:
    assert 'holds two decisions on row 3: leave one of them' in refusal(write(tmp_path, drop=[3]))
    assert 'two decisions on row 9' in refusal(write(tmp_path, drop=[9, 9]))


def test_refuses_a_file_that_holds_none(tmp_path: Path) -> None:
    assert 'does not exist' in refusal(str(tmp_path / 'missing.json'))
    assert 'holds no decisions' in refusal(write(tmp_path, format='else'))
    assert 'is of version 2, but this release reads 1' in refusal(write(tmp_path, version=2))
    for content in (b'{', b'\xff\xfe', b'[' * 100_000, b''):
        (tmp_path / 'decisions.json').write_bytes(content)
        assert 'cannot be read as decisions' in refusal(str(tmp_path / 'decisions.json'))
    (tmp_path / 'decisions.json').write_text('[1]')
    assert 'holds no decisions' in refusal(str(tmp_path / 'decisions.json'))
    assert 'decides keep on row' in refusal(write(tmp_path, keep='all'))
