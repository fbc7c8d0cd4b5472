"""The page *Data*: its code is run as it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.csv_pairs import CSVPairs
from tests.docs.snippets import snippets
from tests.docs.test_library import write_pairs


def test_pictures_of_ones_own_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path, 'pairs', 6)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(snippets('docs/data.md')['writers'], names)
    before = CSVPairs('pairs.csv', root='pictures').load_table()
    after = CSVPairs('negatives/pairs.csv').load_table()
    rows = np.arange(6)
    assert after.captions(rows) == before.captions(rows)
    resized = before.open(4).resize((64, 64))
    difference = np.asarray(after.open(4), int) - (255 - np.asarray(resized, int))
    assert np.abs(difference).mean() < 3  # of resampling
