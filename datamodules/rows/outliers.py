"""Detectors that judge a group of points as a whole: spectral signatures, activation clustering, isolation forest.

Each function returns a score of each point, float (P,): the higher, the more suspicious.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.rows.draws import permutation
from datamodules.rows.embeddings import Points

TREES, TREE_POINTS = 100, 256  # of an isolation forest (Liu et al., 2008)
COMPONENTS = 10  # that activations are reduced to before they are clustered (Chen et al., 2019)
CLUSTER_SAMPLE = 20_000  # captions that centers of groups are fitted to
_DRAW = 0x666F_7265  # key of the draw of a forest's points


def spectral_signatures(points: Points) -> NDArray[np.float64]:
    """Squared projection on the direction of most variance (Tran et al., 2018), of points less their mean."""
    return np.square(project(points, 1)[:, 0])


def activation_clustering(points: Points) -> NDArray[np.float64]:
    """Share of the points that are in the other of two clusters (Chen et al., 2019): the smaller one is suspicious.

    The clusters are those of two-means on the :data:`COMPONENTS` principal components.
    """
    from sklearn.cluster import KMeans  # takes a second to import

    reduced = project(points, COMPONENTS)
    if len(points) < 2 or not np.ptp(reduced, axis=0).any():
        return np.zeros(len(points))
    cluster = KMeans(2, n_init=10, random_state=0).fit(reduced).labels_
    return np.asarray(1 - (np.bincount(cluster) / len(cluster))[cluster])


def isolation_forest(points: Points) -> NDArray[np.float64]:
    """How few random cuts separate a point from the others (Liu et al., 2008), in (0, 1), by scikit-learn.

    The trees see a sample that has as many points as they take together.
    """
    from sklearn.ensemble import IsolationForest

    sample = permutation(len(points), _DRAW)[: TREES * TREE_POINTS]
    forest = IsolationForest(n_estimators=TREES, max_samples=min(TREE_POINTS, len(sample)), random_state=0)
    forest.fit(points.read(sample))
    return np.concatenate([-forest.score_samples(chunk) for _, chunk in points.chunks()])


def project(points: Points, components: int) -> NDArray[np.float64]:
    """Coordinates of points, less their mean, along their principal components, (P, C)."""
    mean = points.mean()
    scatter = np.zeros((points.width, points.width))
    for _, chunk in points.chunks():
        centered = chunk - mean
        scatter += centered.T @ centered
    directions = np.linalg.eigh(scatter)[1][:, ::-1][:, :components]
    return np.concatenate([(chunk - mean) @ directions for _, chunk in points.chunks()])


def caption_groups(captions: Points, groups: int) -> NDArray[np.int64]:
    """Sorts captions into groups by k-means, which stand for the classes that pairs do not have; int64 (P,)."""
    if groups == 1:
        return np.zeros(len(captions), np.int64)
    from sklearn.cluster import KMeans

    sample = permutation(len(captions), _DRAW)[:CLUSTER_SAMPLE]
    model = KMeans(groups, n_init=3, random_state=0).fit(captions.read(sample))
    return np.concatenate([model.predict(chunk) for _, chunk in captions.chunks()]).astype(np.int64)
