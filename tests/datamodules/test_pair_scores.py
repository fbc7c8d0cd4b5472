from __future__ import annotations

import numpy as np
import pytest

from datamodules.pair_scores import NAMES, OF_A_COPY, PairScores, score_pairs
from datamodules.pictures.batches import OverlaidPictures
from datamodules.rows.suspicion import STANDS_OUT
from datamodules.usage_error import UsageError
from tests.helpers.suspicious import CLEAN, COPIED, PAIRS, PATCHED, PATTERNED, suspicious

PLANTED = {'detail': PATCHED, 'pattern': PATTERNED, 'copies': COPIED}
GIVEN = suspicious()


@pytest.fixture(scope='module')
def scores() -> PairScores:
    return score_pairs(GIVEN.images, GIVEN.hashes, GIVEN.image, GIVEN.text)


@pytest.mark.parametrize('name', PLANTED)
def test_what_was_planted_stands_out_in_its_score(name: str, scores: PairScores) -> None:
    rows = PLANTED[name]
    assert (scores.standing[name][rows] >= STANDS_OUT).all()
    assert {NAMES[number] for number in scores.reason[rows]} <= {name, 'pattern'}  # which copies that differ share


def test_hardly_any_other_pair_stands_out(scores: PairScores) -> None:
    assert (scores.suspicion[:CLEAN] >= STANDS_OUT).mean() < 0.01


def test_copies_are_one_group_also_if_they_were_saved_anew(scores: PairScores) -> None:
    assert len(np.unique(scores.group[COPIED])) == 1
    assert len(np.unique(scores.group)) == PAIRS - len(COPIED) + 1
    assert scores.standing['copies'][COPIED].tolist() == [OF_A_COPY * (len(COPIED) - 1)] * len(COPIED)


def test_a_picture_that_occurs_as_often_as_all_others_is_not_suspicious() -> None:
    twice = [np.concatenate([part, part]) for part in (GIVEN.hashes, GIVEN.image, GIVEN.text)]
    images = OverlaidPictures(np.concatenate([GIVEN.pictures, GIVEN.pictures]))
    assert (score_pairs(images, *twice).standing['copies'][:CLEAN] == 0).all()


def test_pairs_that_were_not_embedded_have_no_scores_and_change_none_of_others(scores: PairScores) -> None:
    image, text, unknown = GIVEN.image.copy(), GIVEN.text.copy(), [0, 5, 409]
    image[unknown] = text[unknown] = np.nan
    found = score_pairs(GIVEN.images, GIVEN.hashes, image, text)
    for score in (found.similarity, found.suspicion, *found.standing.values()):
        assert np.flatnonzero(np.isnan(score)).tolist() == unknown
    kept = np.delete(PATCHED, 9)
    assert found.standing['detail'][kept] == pytest.approx(scores.standing['detail'][kept], rel=0.5)


def test_similarity_is_that_of_the_embeddings_and_low_ones_are_suspicious(scores: PairScores) -> None:
    cosine = (GIVEN.image.astype(np.float32) * GIVEN.text.astype(np.float32)).sum(1)
    assert scores.similarity == pytest.approx(cosine, abs=1e-3)
    assert scores.standing['similarity'].argmax() == cosine.argmin()


def test_each_pair_may_be_compared_with_some_of_the_others_alone() -> None:
    found = score_pairs(GIVEN.images, GIVEN.hashes, GIVEN.image, GIVEN.text, compared=PAIRS // 2)
    assert len(np.unique(found.group[COPIED])) <= 2 and (found.standing['detail'][PATCHED] > 3).all()


def test_refuses_too_few_different_pictures() -> None:
    image = GIVEN.image.copy()
    image[60:] = image[60]
    with pytest.raises(UsageError, match=r'compared with 64 others, and of these 438 pairs only 61 have pictures that'):
        score_pairs(GIVEN.images, GIVEN.hashes, image, GIVEN.text)
