from __future__ import annotations

import pytest

from experiments.bench import recalls

OF_CLIP_BENCHMARK = {  # what release 1.6.2 says of the same embeddings: `recalls.clip_benchmark(recalls.draw(...))`
    'i2t 1': 0.2733333, 'i2t 5': 0.5433334, 'i2t 10': 0.6900000,
    't2i 1': 0.1400000, 't2i 5': 0.3586667, 't2i 10': 0.5066667,
}  # fmt: skip


def test_recalls_are_those_of_clip_benchmark() -> None:
    assert recalls.ours(recalls.draw(300, 5, 24, noise=2.5)) == pytest.approx(OF_CLIP_BENCHMARK, abs=1e-6)
