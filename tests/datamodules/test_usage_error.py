from __future__ import annotations

import math

import pytest

from datamodules.usage_error import SEEDS, UsageError, check_number


@pytest.mark.parametrize(('value', 'interval'), [(0, '[0, 1)'), (1, '(0, 1]'), (None, '(0, 1)'), (2**32 - 1, SEEDS)])
def test_numbers_within_are_accepted(value: float | None, interval: str) -> None:
    check_number('data.seed', value, interval)


@pytest.mark.parametrize(
    ('value', 'interval', 'sentence'),
    [
        (-1, '[0, inf)', 'data.seed must be at least 0, got -1.'),
        (0.0, '(0, inf)', 'data.seed must be above 0, got 0.0.'),
        (math.inf, '[0, inf)', 'data.seed must be at least 0 and finite, got inf.'),
        (math.nan, '[0, inf)', 'data.seed must be at least 0, got nan.'),
        (math.nan, '[0, 1]', 'data.seed must lie in [0, 1], got nan.'),
        (1, '[0, 1)', 'data.seed must lie in [0, 1), got 1.'),
        (99999999999, SEEDS, 'data.seed must lie in [0, 4294967295], got 99999999999.'),
    ],
)
def test_others_are_refused_by_name(value: float, interval: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        check_number('data.seed', value, interval)
    assert str(refusal.value) == sentence
