from __future__ import annotations

import numpy as np
import pytest

from datamodules.rows.suspicion import STANDS_OUT, standing_out, suspicion


class TestStandingOut:
    def test_the_middle_is_0_and_the_unusual_twentieth_begins_at_1(self) -> None:
        score = standing_out(np.random.default_rng(0).normal(3, 7, 100_000))
        assert np.quantile(score, [0.5, 0.95]) == pytest.approx([0, 1])
        assert 2 < score.max() < STANDS_OUT / 2  # no pair of a harmless score stands out

    def test_poisons_stand_out_the_more_the_farther_they_are_from_the_rest(self) -> None:
        score = np.concatenate([np.random.default_rng(0).normal(size=1000), [10, 20]])
        assert standing_out(score)[-2:] == pytest.approx([10 / 1.65, 20 / 1.65], rel=0.1)

    def test_unknown_scores_stay_unknown_and_change_nothing(self) -> None:
        score = np.random.default_rng(0).normal(size=100)
        assert np.array_equal(standing_out(np.append(score, np.nan))[:-1], standing_out(score))
        assert np.isnan(standing_out(np.full(3, np.nan))).all()

    def test_few_values_that_differ_from_the_rest_stand_out_once(self) -> None:
        assert standing_out(np.array([0.0] * 99 + [0.3])).tolist() == [0] * 99 + [1]
        assert standing_out(np.zeros(5)).tolist() == [0] * 5


def test_suspicion_is_the_largest_score_and_says_which() -> None:
    nan = np.nan
    value, reason = suspicion({'a': np.array([1, 2, nan, nan]), 'b': np.array([0, 3, 4, nan])})
    assert value[:3].tolist() == [1, 3, 4] and np.isnan(value[3])
    assert reason.tolist() == [0, 1, 1, 0]
