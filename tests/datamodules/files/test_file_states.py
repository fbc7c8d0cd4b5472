from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.files import file_states as module
from datamodules.files.file_states import file_states, identify_files

FILES = 70  # more than are sampled


class TestStates:
    def test_are_size_and_time_of_each_name_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, '_NAMES_AT_ONCE', 3)
        monkeypatch.setattr(module, '_NAMES_PER_THREAD', 2)
        for number in range(5):
            (tmp_path / f'{number}').write_bytes(bytes(number))
            os.utime(tmp_path / f'{number}', ns=(0, 1_000_000_007 + number))
        order = [3, 1, 1, 4, 0, 2, 3, 1]
        states = file_states(tmp_path, pa.array([str(number) for number in order]))
        assert states.tolist() == [[number, 1_000_000_007 + number] for number in order]
        assert file_states(tmp_path, pa.array([], pa.string())).shape == (0, 2)

    def test_what_cannot_be_read_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / 'forbidden').touch()
        monkeypatch.setattr(os, 'access', lambda path, mode: False)
        os.mkfifo(tmp_path / 'fifo')
        (tmp_path / 'loop').symlink_to('loop')
        names = pa.array(['absent', 'a' * 5000, 'nul\0', 'absent/x', '.', 'forbidden', 'fifo', 'loop'])
        assert file_states(tmp_path, names).tolist() == [[-1, -1]] * len(names)


def write_files(folder: Path) -> Callable[[], bytes]:
    """Writes files of equal size and time, and returns a function that identifies them."""
    for number in range(FILES):
        (folder / str(number)).write_bytes(b'%d' % (100 + number))
        os.utime(folder / str(number), ns=(0, 0))
    return lambda: identify_files(folder, pa.array([str(number) for number in range(FILES)]))


def replace_unnoticed(path: Path) -> None:
    """Gives a file other content of the same size, at the same time."""
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))
    os.utime(path, ns=(0, 0))


class TestIdentity:
    def test_of_few_bytes_is_their_content(self, tmp_path: Path) -> None:
        identify = write_files(tmp_path)
        identity = identify()
        os.utime(tmp_path / '7', ns=(0, 5))
        assert identify() == identity
        for number in range(0, FILES, 9):
            replace_unnoticed(tmp_path / str(number))
            assert identify() != identity
            replace_unnoticed(tmp_path / str(number))
        (tmp_path / '7').unlink()
        assert identify() != identity

    def test_of_many_bytes_is_size_and_time_of_each_and_the_content_of_some(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, 'MAX_READ_BYTES', 1000)
        identify = write_files(tmp_path)
        identity = identify()
        noticed = 0
        for number in range(FILES):
            replace_unnoticed(tmp_path / str(number))
            noticed += identify() != identity
            replace_unnoticed(tmp_path / str(number))
        assert 60 <= noticed < FILES
        for number in range(0, FILES, 9):
            os.utime(tmp_path / str(number), ns=(0, 1))
            assert identify() != identity
            os.utime(tmp_path / str(number), ns=(0, 0))
        assert identify() == identity

    def test_a_repeated_name_counts_once(self, tmp_path: Path) -> None:
        (tmp_path / 'a').write_text('x')
        once, twice = pa.array(['a']), pa.chunked_array([['a'], ['a']])
        assert identify_files(tmp_path, once) == identify_files(tmp_path, twice)
