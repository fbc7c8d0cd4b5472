from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from callbacks.separation import auroc, average_precision, detection, leak_at, separation
from datamodules.rows.partition import DROPPED, RISKY, SAFE


class TestAuroc:
    @pytest.mark.parametrize('decimals', [1, 2, 8])  # few decimals: many ties
    @pytest.mark.parametrize('poisons', [1, 7, 300])
    def test_agrees_with_scikit_learn(self, decimals: int, poisons: int) -> None:
        generator = np.random.default_rng(poisons)
        clean = generator.normal(0.3, 0.2, 500).round(decimals).astype(np.float32)
        poison = generator.normal(0.1, 0.2, poisons).round(decimals).astype(np.float32)
        is_clean = np.repeat([1, 0], [500, poisons])
        assert auroc(clean, poison) == pytest.approx(
            roc_auc_score(is_clean, np.concatenate([clean, poison])), abs=1e-12
        )
        assert average_precision(clean, poison) == pytest.approx(
            average_precision_score(1 - is_clean, -np.concatenate([clean, poison])), abs=1e-12
        )

    def test_is_one_when_clean_pairs_are_more_similar(self) -> None:
        assert auroc(np.array([0.5, 0.6]), np.array([0.1])) == 1.0

    def test_is_half_when_all_are_equal(self) -> None:
        assert auroc(np.full(5, 0.2), np.full(3, 0.2)) == 0.5

    def test_leaves_out_pairs_that_were_not_scored(self) -> None:
        assert auroc(np.array([0.5, np.nan]), np.array([np.nan, 0.6])) == 0.0

    def test_is_nan_when_there_is_nothing_to_compare(self) -> None:
        assert math.isnan(auroc(np.array([0.5]), np.array([np.nan])))
        assert math.isnan(auroc(np.array([]), np.array([0.5])))


class TestDetection:
    SCORE = np.array([*np.arange(96) / 96 + 0.1, 0.0, 0.05, 0.95, np.nan], np.float32)  # the last four are poisons
    A, B = np.array([96, 97, 98, 99]), np.array([99])

    def test_drops_the_least_similar_pairs_at_each_cut(self) -> None:
        measured = detection(self.SCORE, {'a': self.A, 'b': self.B})
        left = {'leak_2': 1 / 3, 'leak_10': 1 / 3}  # rows 96 and 97 are the two least similar pairs
        assert measured == {'a': pytest.approx({'auroc': (2 + 14 / 96) / 3, 'ap': (1 + 1 + 3 / 85) / 3} | left)}

    def test_of_equally_similar_pairs_any_are_as_likely_dropped(self) -> None:
        assert leak_at(10, np.zeros(50), np.zeros(7)) == pytest.approx(0.9)

    def test_is_nan_without_a_poison(self) -> None:
        assert math.isnan(leak_at(2, np.zeros(5), np.zeros(0))) and math.isnan(
            average_precision(np.zeros(5), np.zeros(0))
        )


class TestSeparation:
    SIDE = np.array([SAFE, SAFE, RISKY, RISKY, SAFE, RISKY, DROPPED, SAFE], np.int8)
    SCORE = np.array([0.9, 0.8, 0.2, 0.1, 0.7, 0.3, np.nan, 0.85], np.float32)

    def test_matches_counts_by_hand(self) -> None:
        metrics = separation(self.SIDE, self.SCORE, {'a': np.array([2, 4]), 'b': np.array([3, 6])})
        # clean: rows 0, 1, 5, 7 with 0.9, 0.8, 0.3 and 0.85
        leak, risky = {'leak/a': 0.5, 'leak/b': 0.0}, {'risky_share/a': 0.5, 'risky_share/b': 0.5}  # row 6 is dropped
        told = {'auroc/a': 7 / 8, 'auroc/b': 1.0, 'ap/a': (1 + 2 / 3) / 2, 'ap/b': 1.0}
        left = {'leak_2/a': 1, 'leak_2/b': 1, 'leak_10/a': 1, 'leak_10/b': 0}  # 10 % of 7 is one pair, row 3
        assert metrics == pytest.approx({**leak, **risky, **told, **left, 'poisons': 1, 'contamination': 0.25})

    def test_without_attacks_nothing_is_known_to_be_clean(self) -> None:
        assert separation(self.SIDE, self.SCORE, {}) == {}

    def test_an_empty_safe_side_is_not_contaminated(self) -> None:
        metrics = separation(np.full(8, RISKY), self.SCORE, {'a': np.array([2])})
        assert (metrics['contamination'], metrics['leak/a']) == (0.0, 0.0)

    def test_poisons_that_were_not_scored_have_no_auroc(self) -> None:
        assert 'auroc/a' not in separation(self.SIDE, self.SCORE, {'a': np.array([6])})
