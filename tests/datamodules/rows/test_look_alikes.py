from __future__ import annotations

import numpy as np

from datamodules.rows.embeddings import Points
from datamodules.rows.look_alikes import join, look_alikes

GENERATOR = np.random.default_rng(0)


def groups(points: np.ndarray, reach: float) -> list[set[int]]:
    """Groups of two points or more."""
    number = join(len(points), *look_alikes(Points([points]), reach))
    of_group = [{*np.flatnonzero(number == each).tolist()} for each in np.unique(number)]
    return [each for each in of_group if len(each) > 1]


def test_near_points_and_equal_ones_are_in_one_group() -> None:
    points = 10 * GENERATOR.normal(size=(50, 4)).astype(np.float32)
    points[[7, 30]] = points[3] + np.float32(0.01)
    points[[12, 13]] = points[41]
    assert groups(points, reach=0.1) == [{3, 7, 30}, {12, 13, 41}]


def test_a_chain_of_links_and_a_crowd_are_one_group_each() -> None:
    far = 100 + 10 * np.arange(20)
    chain, crowd = np.arange(12) * 0.9, 1000 + GENERATOR.normal(size=300) / 1e3
    points = np.concatenate([far, chain, crowd])[:, None].astype(np.float32)
    assert groups(points, reach=1) == [{*range(20, 32)}, {*range(32, 332)}]


def test_few_points_are_compared_for_equality_alone() -> None:
    assert groups(np.array([[1.0], [1.0], [1.1]], np.float32), reach=1) == [{0, 1}]
