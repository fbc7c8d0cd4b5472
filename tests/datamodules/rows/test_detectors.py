from __future__ import annotations

import math
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest

from datamodules.rows.density import RESOLUTION
from datamodules.rows.detectors import ByDensity, Detector
from datamodules.rows.draws import permutation
from datamodules.rows.embeddings import _COPY_KEY
from datamodules.rows.outliers import _DRAW
from datamodules.usage_error import UsageError

K, PAIRS, COPIES = 5, 300, 40
SOME = slice(None, None, 10)  # pairs whose scores are computed a second time where that takes long


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors as ``predict`` stores them; the last 40 pictures are copies of 4, with captions of their own."""
    generator = np.random.default_rng(3)
    both = generator.normal(size=(2, PAIRS, 6))
    both[0, PAIRS - COPIES :] = np.repeat(both[0, :4], COPIES // 4, 0)
    both /= np.linalg.norm(both, axis=-1, keepdims=True)
    image, text = both.astype(np.float16)
    return image, text


class Brute:
    """Formulas of a point at a time, over the different pictures."""

    def __init__(self, image: np.ndarray, text: np.ndarray) -> None:
        points = image.astype(np.float64)
        self.image, self.text, self.others = points, text.astype(np.float64), {}
        order = permutation(len(points), _COPY_KEY)  # the one of the copies whose caption counts
        self.different = [i for n, i in enumerate(order) if not (points[order[:n]] == points[i]).all(1).any()]

    def near(self, point: int, k: int = K) -> list[tuple[float, int]]:
        """Distances and numbers of the nearest different pictures."""
        if (point, k) not in self.others:
            distances = ((math.dist(self.image[point], self.image[other]), other) for other in self.different)
            self.others[point, k] = sorted(pair for pair in distances if pair[0])[:k]
        return self.others[point, k]

    def k_distance(self, point: int) -> float:
        return self.near(point)[-1][0]

    def slof(self, point: int) -> float:
        return float(np.mean([self.k_distance(point) / self.k_distance(other) for _, other in self.near(point)]))

    def dimension(self, point: int) -> float:
        distance = [d for d, _ in self.near(point, 2 * K)]
        return -len(distance) / sum(math.log(max(d, RESOLUTION) / distance[-1]) for d in distance)

    def dao(self, point: int) -> float:
        own = self.k_distance(point)
        terms = [min(6, self.dimension(o)) * math.log(own / self.k_distance(o)) for _, o in self.near(point)]
        return float(np.mean(terms))

    def reach(self, point: int) -> float:
        return float(np.mean([max(d, self.k_distance(other)) for d, other in self.near(point)]))

    def lof(self, point: int) -> float:
        return float(np.mean([self.reach(point) / self.reach(other) for _, other in self.near(point)]))

    def deep_knn(self, point: int) -> float:
        return 1 - float(np.mean([self.text[point] @ self.text[other] for _, other in self.near(point)]))


@cache
def brute() -> Brute:
    return Brute(*pairs())


@pytest.mark.parametrize('name', get_args(ByDensity))
def test_detectors_by_density_agree_with_a_loop_and_copies_disturb_nobody(name: Any) -> None:
    image, text = pairs()
    detector = Detector(name, neighbors=K, dimension_neighbors=2 * K)
    score = detector.suspicion(image, text)
    assert score == pytest.approx([getattr(brute(), name)(point) for point in range(PAIRS)], rel=2e-3, abs=1e-4)
    if name != 'deep_knn':  # which does ask what captions the copies have
        assert score[:-COPIES] == pytest.approx(detector.suspicion(image[:-COPIES], text[:-COPIES]), rel=1e-4)


def spectral(image: np.ndarray) -> np.ndarray:
    centered = image - image.mean(0)
    return np.square(centered @ np.linalg.svd(centered)[2][0])[SOME]


def clustering(image: np.ndarray) -> np.ndarray:
    """Two-means, of fifty starts the one with the least inertia."""
    label = KMeans(2, n_init=50, random_state=7).fit(image - image.mean(0)).labels_
    return (1 - np.where(label == 1, label.mean(), 1 - label.mean()))[SOME]


def forest(image: np.ndarray) -> list[float]:
    """Depth of each point in each tree, walked by hand."""
    model = IsolationForest(n_estimators=100, max_samples=256, random_state=0).fit(image[permutation(PAIRS, _DRAW)])

    def expected(leaf_points: int) -> float:
        n = leaf_points
        return 0 if n < 2 else 1 if n == 2 else 2 * (math.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n

    def depth(tree: Any, point: np.ndarray) -> float:
        node = steps = 0
        while tree.children_left[node] >= 0:
            is_left = point[tree.feature[node]] <= tree.threshold[node]
            node, steps = (tree.children_left if is_left else tree.children_right)[node], steps + 1
        return steps + expected(tree.n_node_samples[node])

    trees = [estimator.tree_ for estimator in model.estimators_]
    return [2 ** -(np.mean([depth(tree, point) for tree in trees]) / expected(256)) for point in image[SOME]]


@pytest.mark.parametrize(
    ('name', 'twin'),
    [('spectral_signatures', spectral), ('activation_clustering', clustering), ('isolation_forest', forest)],
)
def test_detectors_of_groups_agree_with_a_twin(name: Any, twin: Any) -> None:
    image, text = pairs()
    image[200:] = (image[200:].astype(np.float32) + 3).astype(np.float16)  # a second cluster with the copies in it
    score = Detector(name).suspicion(image, text)[SOME]
    assert score == pytest.approx(np.array(twin(image.astype(np.float32))), rel=1e-4)


def test_pictures_with_one_trigger_are_alone_in_a_batch_but_not_in_the_whole_set() -> None:
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2000, 8))
    image[-40:] = 4 + 0.05 * generator.normal(size=(40, 8))
    whole, batched = (Detector('dao', batch=batch).suspicion(image, image) for batch in (None, 100))
    ranks = [np.argsort(np.argsort(score))[-40:].mean() / len(image) for score in (whole, batched)]
    assert ranks[0] < 0.6 and ranks[1] > 0.95


@pytest.mark.parametrize('batch', [None, 30])
def test_pairs_without_embeddings_have_no_score_and_count_for_nothing(batch: int | None) -> None:
    image, text = pairs()
    image[::2] = text[::2] = np.nan
    detector = Detector('slof', 'pair', neighbors=K, batch=batch)
    score = detector.suspicion(image, text)
    assert np.isnan(score[::2]).all() and score[1::2] == pytest.approx(detector.suspicion(image[1::2], text[1::2]))


def test_each_group_of_captions_is_judged_by_itself() -> None:
    image, text = pairs()
    text[:200], text[200:] = np.eye(6)[0], np.eye(6)[1]
    score = Detector('spectral_signatures', groups=2).suspicion(image, text)
    assert score[:200][SOME] == pytest.approx(spectral(image[:200].astype(np.float64)), rel=1e-4, abs=1e-7)


def test_refuses_pairs_without_any_embedding() -> None:
    with pytest.raises(UsageError, match='no pair has an embedding'):
        Detector('isolation_forest').suspicion(*np.full((2, 9, 4), np.nan))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'neighbors': 0}, 'neighbors must be at least 1, got 0'),
        ({'name': 'pca'}, "detector must be one of dao, slof, .*, got 'pca'"),
        ({'modality': 'sound'}, "modality must be image, text or pair, got 'sound'"),
        ({'batch': 64}, 'batch must be above 64, the neighbors of a pair, got 64'),
        ({'device': 'abacus'}, "device='abacus' is not available here: give cpu"),
        ({'neighbors': 260}, '^neighbors=260 is too many: the set has 260 different embeddings'),
        ({'name': 'slof', 'batch': 299, 'neighbors': 280}, '^neighbors=280 is too many: a batch has 260'),
        ({'dimension_neighbors': 270}, '^dimension_neighbors=270 is too many: the set has 260 different embeddings'),
        ({'name': 'isolation_forest', 'groups': 301}, 'groups=301 is more than the 300 embedded pairs: give fewer'),
    ],
)
def test_refuses_what_cannot_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Detector(**arguments).suspicion(*pairs())
