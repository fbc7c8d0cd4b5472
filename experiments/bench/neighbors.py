"""Time and memory of the exact search for neighbors in embeddings on disk."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from datamodules.rows.draws import permutation
from datamodules.rows.embeddings import CHUNK_POINTS, IMAGE_FILE, Points
from datamodules.rows.neighbors import QUERY_POINTS, nearest
from experiments.bench.measure import Memory, Result, seconds

ROWS, WIDTH = 1_000_000, 512
QUERIES = 1024
NEIGHBORS = 64  # of `dao`, which needs the most
MEGABYTE = 1e6


def measure() -> Iterator[Result]:
    """Searches the neighbors of some pairs among all, and multiplies as many embeddings for comparison."""
    with tempfile.TemporaryDirectory() as folder:
        points = Points([write_random_embeddings(Path(folder, IMAGE_FILE))])
        queries = np.sort(permutation(ROWS, 0)[:QUERIES])
        with Memory() as memory:
            search = seconds(lambda: deque(nearest(points, NEIGHBORS, queries), maxlen=0))
    yield Result(f'neighbors of {QUERIES:,} pairs among {ROWS:,}, of one core', search, 's')
    yield Result('the same over a plain matrix product of that size', search / seconds(multiply), 'x', 3)
    yield Result('most memory meanwhile, without mapped files', memory.peak / MEGABYTE, 'MB', 300)


def write_random_embeddings(path: Path) -> np.ndarray:
    """Writes embeddings of unit norm, float16 (ROWS, WIDTH), as ``predict`` does, and maps them into memory."""
    draw = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, 'w+', np.float16, (ROWS, WIDTH))
    for start in range(0, ROWS, CHUNK_POINTS):
        chunk = draw.standard_normal((min(CHUNK_POINTS, ROWS - start), WIDTH), np.float32)
        rows[start : start + len(chunk)] = chunk / np.linalg.norm(chunk, axis=1, keepdims=True)
    rows.flush()
    return rows


def multiply() -> None:
    """Inner products of QUERIES and ROWS vectors in float32, in blocks of the size that the search has."""
    query, reference = torch.randn(QUERY_POINTS, WIDTH), torch.randn(CHUNK_POINTS, WIDTH)
    product = torch.empty(QUERY_POINTS, CHUNK_POINTS)
    for _ in range(round(QUERIES / QUERY_POINTS * ROWS / CHUNK_POINTS)):
        torch.mm(query, reference.T, out=product)
