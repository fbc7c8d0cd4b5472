from __future__ import annotations

import math

import numpy as np
import pytest

from callbacks import mismatches
from callbacks.mismatches import Mismatches, evident_shares
from datamodules.rows.partition import DROPPED, RISKY, SAFE

SCORE = np.array([0.1, 0.4, 0.5, math.nan, 0.9])


class TestPValues:
    def test_are_shares_of_the_shuffled_pairs_that_are_at_least_as_similar(self) -> None:
        p = Mismatches(np.array([0.5, 0.2, 0.4, 0.0])).p_values(SCORE)
        assert p[[0, 1, 2, 4]].tolist() == [0.75, 0.5, 0.25, 0.0]
        assert np.isnan(p[3])

    def test_are_the_larger_of_shuffled_pairs_and_canaries(self) -> None:
        planted = np.linspace(0.45, 0.55, 200)  # pairs of a canary, around the third pair's similarity
        score, canary = np.concatenate([SCORE, planted]), {'patch': np.arange(5, 205)}
        p = Mismatches(np.zeros(0), canary).p_values(score)[:5]
        assert p[[1, 2, 4]] == pytest.approx([0.477, 0.197, 0.0], abs=0.001) and np.isnan(p[3])
        both = Mismatches(np.full(10, 0.95), canary)
        assert both.p_values(score)[[0, 1, 2, 4]].tolist() == [1.0, 1.0, 1.0, 1.0]

    def test_take_two_canaries_to_disagree_with_shuffled_pairs(self) -> None:
        score = np.concatenate([SCORE, np.full(80, 0.95), np.full(80, 0.45), np.full(80, 0.0)])
        canaries = {'alike': np.arange(5, 85), 'learned': np.arange(85, 165), 'unknown': np.arange(165, 245)}
        first = Mismatches(np.zeros(10), {'alike': canaries['alike'], 'unknown': canaries['unknown']}).p_values(score)
        assert first[[2, 4]].tolist() == [0, 0]
        p = Mismatches(np.zeros(10), canaries).p_values(score)
        assert p[[1, 2, 4]] == pytest.approx([evident_shares(80)[80] / 2, 0, 0])

    def test_of_few_canaries_are_what_is_evident(self) -> None:
        assert evident_shares(40)[[0, 2, 5, 40]] == pytest.approx([0, 0.0076, 0.035, 0.807], abs=0.001)
        assert evident_shares(1000)[100] == pytest.approx(0.0744, abs=0.001)

    def test_leave_out_canaries_of_which_none_is_scored(self) -> None:
        assert np.isnan(Mismatches(np.zeros(0), {'patch': np.array([3])}).p_values(SCORE)).all()

    def test_are_unknown_if_no_pair_is_known_not_to_match(self) -> None:
        assert np.isnan(Mismatches().p_values(SCORE)).all()

    def test_do_not_depend_on_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = np.random.default_rng(0)
        score, known = generator.random(50), Mismatches(generator.random(30))
        whole = known.p_values(score)
        monkeypatch.setattr(mismatches, 'BLOCK', 7)
        assert known.p_values(score).tolist() == whole.tolist()


class TestHistogram:
    def test_covers_all_pairs_and_says_how_many_shuffled_ones_pass(self) -> None:
        null = np.array([0.6, 0.5, -0.2, 0.1])
        kept = Mismatches(null).histogram(SCORE, 0.5)
        assert kept is not None and (sum(kept['counts']), kept['leak'], kept['threshold']) == (4, 0.5, 0.5)
        assert kept['edges'][0] < -0.2 and kept['edges'][-1] > 0.9
        assert Mismatches().histogram(SCORE, 0.5) is None


class TestMetrics:
    def test_are_the_leaks_of_a_split(self) -> None:
        side = np.array([RISKY, RISKY, SAFE, DROPPED, SAFE], np.int8)
        known = Mismatches(np.array([0.6, 0.5, 0.2, 0.1]), {'a': np.array([0, 2]), 'b': np.array([1])}, compared=1.0)
        metrics = known.metrics(SCORE, side, threshold=0.5)
        assert metrics == {
            'partition/null_leak': 0.5,
            'partition/null_compared': 1.0,
            'partition/null_auroc': pytest.approx((1 + 1.5 + 3 + 3.5) / 16),
            'canary/leak/a': 0.5,
            'canary/leak/b': 0.0,
            'canary/leak': 0.5,
            'canary/evident_leak': 0.0,  # of one canary a twentieth, of the other nothing
        }

    def test_say_how_many_shuffled_pairs_could_be_compared(self) -> None:
        metrics = Mismatches(compared=0.25).metrics(SCORE, np.zeros(5, np.int8), 0.1)
        assert metrics['partition/null_compared'] == 0.25

    def test_say_only_what_is_known(self) -> None:
        metrics = Mismatches().metrics(SCORE, np.zeros(5, np.int8), 0.1)
        assert all(name.startswith('partition/null_') for name in metrics)
        assert np.isnan([*metrics.values()]).all()

    def test_estimate_the_leak_of_pairs_that_match_by_chance(self) -> None:
        generator = np.random.default_rng(0)
        score = np.concatenate([generator.normal(0.5, 0.1, 9000), generator.normal(0.2, 0.1, 1000)])
        side = np.where(score >= 0.35, SAFE, RISKY).astype(np.int8)
        leak = Mismatches(generator.normal(0.2, 0.1, 20_000)).metrics(score, side, 0.35)['partition/null_leak']
        assert leak == pytest.approx((side[9000:] == SAFE).mean(), abs=0.03)
