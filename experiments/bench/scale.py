"""What must not grow with the size of a run, one part after the other."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.bench import large_batches, remote_shards, rows
from experiments.bench.measure import Result

PARTS = [
    large_batches.measure,  # first, because it measures memory
    rows.measure,
    remote_shards.measure,
]


def measure() -> Iterator[Result]:
    """Measures each part."""
    for part in PARTS:
        yield from part()
