from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.rows.embeddings import Points
from datamodules.rows.neighbors import Nearest, nearest


def all_nearest(points: Points, k: int, queries: np.ndarray | None = None) -> Nearest:
    parts = [found for _, found in nearest(points, k, queries)]
    return Nearest(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def brute(points: np.ndarray, k: int) -> Nearest:
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    index = np.argsort(distance, 1, kind='stable')[:, :k]
    return Nearest(np.take_along_axis(distance, index, 1), index.astype(np.int32))


@pytest.mark.parametrize('mean', [0, 100])
def test_finds_what_comparing_everything_finds(mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('datamodules.rows.neighbors.CHUNK_POINTS', 70)
    monkeypatch.setattr('datamodules.rows.neighbors.QUERY_POINTS', 64)
    points = (np.random.default_rng(0).normal(size=(300, 8)) + mean).astype(np.float32)
    points[260:] = points[:40]  # copies, at distance 0
    found, expected = all_nearest(Points([points]), 16), brute(points.astype(np.float64), 16)
    assert np.allclose(found.distance, expected.distance, atol=1e-4)
    assert (found.neighbor == expected.neighbor).all()
    some = all_nearest(Points([points]), 16, np.array([299, 3]))
    assert (some.neighbor == expected.neighbor[[299, 3]]).all()


def test_reads_rows_of_a_memory_map(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float16)
    np.save(tmp_path / 'points.npy', points)
    rows = np.arange(3, 30, 2)
    mapped = np.load(tmp_path / 'points.npy', mmap_mode='r')
    expected = brute(np.tile(points[rows].astype(np.float64), 2), 5)
    assert (all_nearest(Points([mapped, mapped], rows), 5).neighbor == expected.neighbor).all()


def test_all_other_points_can_be_neighbors() -> None:
    points = np.arange(5, dtype=np.float32)[:, None]
    assert all_nearest(Points([points]), 4).neighbor[0].tolist() == [1, 2, 3, 4]
