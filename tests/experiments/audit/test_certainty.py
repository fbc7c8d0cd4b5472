from __future__ import annotations

import numpy as np
import pytest

from experiments.audit.certainty import Certainty, describe, judge

DRAW = np.random.default_rng(0)
SHUFFLED = DRAW.normal(0, 0.1, 20_000).astype(np.float32)


def similarities(mismatched: int, matching: float = 1.0) -> np.ndarray:
    """Similarities of 10,000 pairs, some of which are drawn as shuffled pairs are."""
    parts = DRAW.normal(0, 0.1, mismatched), DRAW.normal(matching, 0.1, 10_000 - mismatched)
    return np.concatenate(parts).astype(np.float32)


class TestJudge:
    @pytest.mark.parametrize('share', [0.0, 0.1, 0.5])
    def test_estimates_how_many_pairs_do_not_match_and_how_many_of_them_pass(self, share: float) -> None:
        mismatched = round(10_000 * share)
        found = judge(similarities(mismatched), SHUFFLED, None)
        assert found.mismatched == pytest.approx(share, abs=0.02)
        assert found.passing == pytest.approx(0.05 * mismatched, abs=10)
        assert found.kept == pytest.approx(10_000 - 0.95 * mismatched, abs=50)

    def test_a_model_that_cannot_tell_takes_all_pairs_for_mismatched(self) -> None:
        found = judge(similarities(0, matching=0.0), SHUFFLED, None)
        assert found.separation == pytest.approx(0.5, abs=0.02) and found.mismatched == pytest.approx(1, abs=0.03)

    def test_a_model_that_has_learned_the_pairs_by_heart_takes_none_for_mismatched(self) -> None:
        assert judge(similarities(0, matching=2.0), SHUFFLED, 1.0)[1:5] == (1.0, 0.0, 10_000, 0.0)

    def test_nothing_is_known_where_no_pair_could_be_shuffled(self) -> None:
        found = judge(similarities(0), SHUFFLED[:0], None)
        assert np.isnan(found.separation) and np.isnan(found.mismatched) and found.kept == 0


class TestDescribe:
    def words(self, separation: float, seen: float | None = None) -> str:
        return ' '.join(describe(Certainty(10_000, separation, 0.12, 8_900, 60.0, seen)))

    def test_says_what_keeping_pairs_would_let_in(self) -> None:
        said = self.words(0.95)
        assert 'tells pairs that match from pairs that do not. In 95% of comparisons' in said
        assert 'About 1,200 of 10,000 pairs (12.0%) look as if picture and caption do not belong together.' in said
        assert 'you keep 8,900, among them about 60 such pairs (0.7%), unless the model has learned them.' in said
        assert 'only roughly' in self.words(0.8)

    @pytest.mark.parametrize('separation', [0.5, 0.69, float('nan')])
    def test_says_plainly_that_a_model_cannot_tell_and_then_estimates_nothing(self, separation: float) -> None:
        said = self.words(separation)
        assert 'cannot tell which pairs match' in said and '1,200' not in said

    def test_says_that_a_model_vouches_for_what_it_was_trained_on(self) -> None:
        assert 'was trained on about 90% of these pairs' in self.words(0.95, 0.9)
        assert 'trained on' not in self.words(0.95, 0.0) + self.words(0.95)

    def test_says_that_a_model_cannot_tell_what_it_has_learned_by_heart(self) -> None:
        said = self.words(1.0, 0.9)
        assert 'learned the pairs by heart, so its similarities cannot tell' in said and '1,200' not in said
        assert 'by heart' not in self.words(1.0) + self.words(0.99, 0.9)
