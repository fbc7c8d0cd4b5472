from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.files import file_states as module
from datamodules.files.file_states import file_states


def list_states(root: Path, names: pa.Array | pa.ChunkedArray) -> list[list[int]]:
    return [list(map(int, state)) for part in file_states(root, names) for state in part]


def test_returns_size_and_time_of_each_name_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_NAMES_AT_ONCE', 3)
    monkeypatch.setattr(module, '_NAMES_PER_THREAD', 2)
    for number in range(5):
        (tmp_path / f'{number}').write_bytes(bytes(number))
        os.utime(tmp_path / f'{number}', ns=(0, 1_000_000_007 + number))
    order = [3, 1, 1, 4, 0, 2, 3, 1]
    expected = [[number, 1_000_000_007 + number] for number in order]
    names = pa.array([str(number) for number in order])
    assert list_states(tmp_path, names) == expected
    assert list_states(tmp_path, pa.chunked_array([names[:1], names[1:7], names[7:]])) == expected


def test_names_without_a_file_are_missing(tmp_path: Path) -> None:
    names = pa.array(['absent', 'a' * 5000, 'nul\0', 'absent/x'])
    assert list_states(tmp_path, names) == [[-1, -1]] * 4


def test_no_names_give_no_states(tmp_path: Path) -> None:
    assert np.sum([len(part) for part in file_states(tmp_path, pa.array([], pa.string()))]) == 0
