from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.rows.filters import CleanSubset, Filter, KeyList
from datamodules.rows.row_sets import mark_rows
from datamodules.rows.trusted import find_trusted
from datamodules.usage_error import UsageError
from tests.helpers.tiny import tiny_table

TABLE = tiny_table(6, 2, seed=0)  # their names are 0:0 to 0:5


def trusted(rule: Filter | None, untrained: list[int]) -> list[int]:
    is_untrained = mark_rows(np.array(untrained, int), 6)
    return find_trusted(rule, TABLE, is_untrained, np.array([5]), lambda: np.arange(6)).tolist()


@pytest.fixture
def checked(tmp_path: Path) -> Filter:
    """The list of somebody who has checked three pairs."""
    (tmp_path / 'checked.txt').write_text('0:1\n0:2\n0:4\n')
    return KeyList(str(tmp_path / 'checked.txt'))


def test_are_those_that_the_rule_keeps_and_training_uses(checked: Filter) -> None:
    assert trusted(checked, []) == [1, 2, 4]
    assert trusted(checked, [0, 2]) == [1, 4]
    assert trusted(None, []) == []


def test_may_be_drawn_for_an_experiment() -> None:
    drawn = trusted(CleanSubset(3), [])
    assert len(drawn) == 3 and 5 not in drawn


def test_none_left_is_refused(checked: Filter) -> None:
    with pytest.raises(UsageError, match=r'^data.trusted names 3 pairs, and none of them is trained on: name readable'):
        trusted(checked, [1, 2, 4])


def test_a_rule_that_does_not_fit_is_refused_by_the_right_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'^data.trusted: there is no file='):
        trusted(KeyList(str(tmp_path / 'missing.txt')), [])
