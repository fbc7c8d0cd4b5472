from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.bench import noise


def test_a_sweep_changes_its_batches_and_leaves_the_files_sparse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {'ROWS': 500, 'SIZE': 64, 'BATCH': 4, 'BATCHES': 2}.items():
        monkeypatch.setattr(noise, name, value)
    store = noise.make_sparse(tmp_path / 'noise')
    noise.sweep(store)
    moved = store.noise(np.arange(500))
    assert np.unique(moved.reshape(500, -1)[:, 0], return_counts=True)[1].tolist() == [492, 8]
    files = [path.stat() for path in (tmp_path / 'noise').glob('noise_*.npy')]
    assert all(file.st_size >= 500 * 3 * 64 * 64 > 4 * 512 * file.st_blocks for file in files)
