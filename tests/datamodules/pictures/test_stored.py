from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.cache import store_pictures
from datamodules.pictures.stored import StoredPictures
from tests.helpers.tiny import tiny_table


@pytest.fixture
def stored(tmp_path: Path) -> StoredPictures:
    return store_pictures(tiny_table(6, 2, seed=0), 8, tmp_path)


def test_pictures_are_read_by_row(stored: StoredPictures) -> None:
    rows = np.array([4, 1, 4])
    assert (stored[rows] == stored.images[rows]).all() and len(stored) == 6
    assert (OverlaidPictures(stored)(rows) == stored.images[rows]).all()
    assert stored[rows[:0]].shape == (0, 3, 8, 8)


def test_damaged_pictures_are_decoded_again(stored: StoredPictures, caplog: pytest.LogCaptureFixture) -> None:
    intact = stored.images.copy()
    stored.images = intact.copy()
    stored.images[2, 1, 3, 3] ^= 1
    stored.images[3] = 0
    stored.images[[4, 5]] = stored.images[[5, 4]]
    for _ in range(2):
        assert (stored[np.arange(6)] == intact).all()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f'{stored.path} is damaged at picture 2: ')
    assert 'Delete it when no run uses it' in caplog.messages[0]
