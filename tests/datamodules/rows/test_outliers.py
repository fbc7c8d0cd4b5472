from __future__ import annotations

import numpy as np
import pytest

from callbacks.separation import auroc
from datamodules.rows import outliers
from datamodules.rows.embeddings import Points


def clouds(mean: float) -> np.ndarray:
    """300 points of which the last 30 differ a little in one direction."""
    points = np.random.default_rng(0).normal(size=(300, 20))
    points[270:, 3] += 8
    return (points + mean).astype(np.float32)


@pytest.mark.parametrize('mean', [0, 1000])
def test_spectral_signatures_are_of_centered_points(mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('datamodules.rows.embeddings.CHUNK_POINTS', 64)
    points = clouds(mean)
    score = outliers.spectral_signatures(Points([points]))
    centered = points - points.mean(0, np.float64)
    assert score == pytest.approx(np.square(centered @ np.linalg.svd(centered)[2][0]), rel=1e-6, abs=1e-6)
    assert auroc(-score[:270], -score[270:]) > 0.99


def test_the_smaller_cluster_is_suspicious() -> None:
    score = outliers.activation_clustering(Points([clouds(5)]))
    assert score == pytest.approx(np.repeat([0.1, 0.9], [270, 30]))


def test_equal_points_form_no_clusters() -> None:
    assert not outliers.activation_clustering(Points([np.ones((9, 4), np.float32)])).any()


def test_captions_are_grouped_by_what_they_say() -> None:
    captions = np.repeat(np.eye(3, dtype=np.float32), [5, 6, 7], 0)
    group = outliers.caption_groups(Points([captions]), 3)
    assert [len({*part}) for part in np.split(group, [5, 11])] == [1, 1, 1] and len({*group}) == 3
    assert not outliers.caption_groups(Points([captions]), 1).any()
