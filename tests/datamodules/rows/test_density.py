from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from datamodules.rows import density
from datamodules.rows.embeddings import Points
from datamodules.rows.neighbors import nearest

SIX = np.array([(0, 0), (1, 0), (0, 1.5), (2, 2), (10, 10), (0.5, 3)], np.float32)
[(_, (DISTANCE, INDEX))] = nearest(Points([SIX]), 3)
DIMENSION = [1.792140, 2.940858, 9.522465, 10.112894, 11.774110, 2.548527]


def test_scores_of_six_points_are_as_by_hand() -> None:
    assert density.k_distance(DISTANCE) == pytest.approx([2.828427, 2.236068, 1.802776, 2.236068, 13.124405, 3.041381])
    assert density.intrinsic_dimension(DISTANCE) == pytest.approx(DIMENSION, rel=1e-5)
    assert density.slof(DISTANCE, INDEX) == pytest.approx(
        [1.366250, 1.010306, 0.678784, 0.991854, 5.821600, 1.374164], rel=1e-5
    )
    assert density.dao(DISTANCE, INDEX, np.array(DIMENSION)) == pytest.approx(
        [2.452170, 0.543301, -0.924481, 0.422383, 13.509061, 2.740282], rel=1e-5
    )
    model = LocalOutlierFactor(3).fit(SIX)
    assert density.lof(DISTANCE, INDEX) == pytest.approx(-model.negative_outlier_factor_, rel=1e-5)


def test_equally_distant_neighbors_do_not_have_infinite_dimension() -> None:
    assert density.intrinsic_dimension(np.ones((1, 4)), largest=512).tolist() == [512]


def test_distances_below_the_resolution_are_finite() -> None:
    assert np.isfinite(density.slof(np.zeros((3, 2)), np.array([[1, 2], [0, 2], [0, 1]]))).all()


def test_with_labels_for_captions_disagreement_is_the_share_of_other_labels() -> None:
    label, one_hot = np.array([0, 0, 1, 1, 1, 0]), np.eye(2)
    expected = [np.mean(label[near] != label[point]) for point, near in enumerate(INDEX)]
    assert density.disagreement(one_hot[label], one_hot[label[INDEX]]) == pytest.approx(expected)
