from __future__ import annotations

import numpy as np
import pytest

from datamodules.rows.embeddings import Points
from datamodules.rows.recurrence import close_to, recurrence
from tests.helpers.tiny import unit_rows

PLANTED = np.arange(190, 200)


def pictures(shared: float = 0.9) -> np.ndarray:
    """Directions of 200 pictures, of which the planted ones have a part in common."""
    vectors = unit_rows(200, 64, seed=0).numpy()
    vectors[PLANTED] = shared * vectors[0] + (1 - shared) * vectors[PLANTED]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def captions(planted: int | None = 3) -> np.ndarray:
    """Embeddings of captions of five classes; those of planted pairs are of one class, or of any."""
    label = np.random.default_rng(1).integers(0, 5, 200)
    if planted is not None:
        label[PLANTED] = planted
    return np.asarray(np.eye(8)[label] + unit_rows(200, 8, seed=2).numpy() / 10)


def score(vectors: np.ndarray, texts: np.ndarray) -> np.ndarray:
    return recurrence(Points([vectors]), Points([texts]))


def test_pairs_that_share_something_and_have_like_captions_stand_out() -> None:
    found = score(pictures(), captions())
    assert found[PLANTED].min() > 2 * np.delete(found, PLANTED).max()


def test_neither_alone_does() -> None:
    other_captions, nothing_shared = score(pictures(), captions(None)), score(pictures(0), captions())
    assert max(other_captions.max(), nothing_shared.max()) < score(pictures(), captions())[PLANTED].min() / 2


def test_copies_of_a_picture_share_no_more_than_the_picture() -> None:
    vectors = pictures(0)
    vectors[PLANTED] = vectors[190]
    found = score(vectors, captions())
    assert found[PLANTED].max() < score(pictures(), captions())[PLANTED].min() / 2


def test_pictures_with_nothing_to_compare_score_0_and_are_nobody_s_neighbors() -> None:
    vectors = np.concatenate([pictures(), np.zeros((5, 64))])
    found = score(vectors, np.concatenate([captions(), captions()[:5]]))
    assert (found[200:] == 0).all()
    assert found[:200] == pytest.approx(score(pictures(), captions()), abs=0.02)  # the mean caption has moved


def test_few_pictures_score_0() -> None:
    assert score(pictures()[:8], captions()[:8]).tolist() == [0] * 8


def test_closeness_is_1_for_equal_points_and_0_from_the_typical_distance_on() -> None:
    assert close_to(np.array([[0.0, 1.0, 2.0, 2.0, 2.0]])).tolist() == [[1, 0.75, 0, 0, 0]]
    assert close_to(np.zeros((1, 3))).tolist() == [[1, 1, 1]]


def test_one_pair_in_twenty_reaches_1_by_chance_whatever_part_of_the_pairs_is_planted() -> None:
    assert np.quantile(score(pictures(0), captions(None)), 0.95) == pytest.approx(1, abs=0.3)
    vectors, texts = pictures(0), captions(None)
    vectors[150:] = 0.9 * vectors[0] + 0.1 * vectors[150:]
    texts[150:] = captions()[PLANTED[0]]
    assert score(vectors, texts)[150:].min() > 3
