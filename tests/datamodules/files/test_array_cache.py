from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from datamodules.files.array_cache import ArrayKind, stored_array, stored_arrays
from datamodules.usage_error import UsageError


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestStoredArray:
    def test_is_made_once(self, tmp_path: Path) -> None:
        calls = []

        def fill(array: np.ndarray) -> None:
            calls.append(array.shape)
            array[:] = 7

        path = tmp_path / 'new' / 'x.npy'
        for _ in range(2):
            array = stored_array(path, (3, 2), np.uint16, fill)
            assert array.tolist() == [[7, 7]] * 3
            assert array.dtype == np.uint16
        assert calls == [(3, 2)]
        assert file_names(tmp_path / 'new') == ['x.npy']

    def test_is_read_only(self, tmp_path: Path) -> None:
        array = stored_array(tmp_path / 'x.npy', (2,), np.uint8, lambda array: None)
        with pytest.raises(ValueError, match='read-only'):
            array[0] = 1

    def test_may_be_empty(self, tmp_path: Path) -> None:
        for _ in range(2):
            assert stored_array(tmp_path / 'x.npy', (0, 3, 4, 4), np.uint8, lambda array: None).shape == (0, 3, 4, 4)

    def test_an_interruption_leaves_no_file(self, tmp_path: Path) -> None:
        def fail(array: np.ndarray) -> None:
            array[0] = 1
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stored_array(tmp_path / 'x.npy', (3,), np.uint8, fail)
        assert file_names(tmp_path) == []

    def test_leftovers_of_a_killed_process_are_not_read(self, tmp_path: Path) -> None:
        (tmp_path / 'x.0123.tmp').write_bytes(b'half')
        array = stored_array(tmp_path / 'x.npy', (3,), np.uint8, lambda array: array.fill(5))
        assert array.tolist() == [5, 5, 5]

    def test_another_shape_or_type_with_the_same_name_is_refused(self, tmp_path: Path) -> None:
        stored_array(tmp_path / 'x.npy', (6,), np.uint8, lambda array: None)
        for shape, dtype in (((7,), np.uint8), ((2, 3), np.uint8), ((6,), np.int8)):
            with pytest.raises(UsageError, match=r'x\.npy holds arrays of unexpected shapes: delete it'):
                stored_array(tmp_path / 'x.npy', shape, dtype, lambda array: None)

    def test_a_file_without_checksums_is_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / 'x.npy', np.zeros(6))
        with pytest.raises(UsageError, match=r'x\.npy is damaged .*from an older version\): delete it'):
            stored_array(tmp_path / 'x.npy', (6,), np.float64, lambda array: None)

    def test_numpy_can_load_it(self, tmp_path: Path) -> None:
        stored_array(tmp_path / 'x.npy', (2, 3), np.int64, lambda array: array.fill(-5))
        assert np.load(tmp_path / 'x.npy').tolist() == [[-5] * 3] * 2


def fill_both(arrays: list[np.ndarray]) -> None:
    arrays[0][:] = 3
    arrays[1][:] = [True, False, True]


def test_several_arrays_share_a_file(tmp_path: Path) -> None:
    kinds = [ArrayKind((5, 7), np.uint8), ArrayKind((3,), bool), ArrayKind((0, 2), np.int64)]
    for fill in (fill_both, lambda arrays: 1 / 0):
        first, second, third = stored_arrays(tmp_path / 'x.npy', kinds, fill)
        assert first.tolist() == [[3] * 7] * 5 and second.tolist() == [True, False, True] and third.shape == (0, 2)
    assert file_names(tmp_path) == ['x.npy']


class TestSpace:
    def fail(self, array: np.ndarray) -> None:
        raise AssertionError('filled without space')

    @pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_is_reserved_first(self, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(file: int, start: int, size: int) -> None:
            assert size > 3_000_000
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, 'posix_fallocate', refuse)
        with pytest.raises(
            UsageError, match=r'x\.npy needs 3 MB, and its disk has .* free or sets a limit: .*cache_dir'
        ):
            stored_array(tmp_path / 'x.npy', (3_000_000,), np.uint8, self.fail)
        assert file_names(tmp_path) == []

    @pytest.mark.parametrize('code', [errno.EOPNOTSUPP, errno.EINVAL])
    def test_works_on_file_systems_that_cannot_reserve(
        self, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(file: int, start: int, size: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, 'posix_fallocate', refuse)
        assert stored_array(tmp_path / 'x.npy', (3,), np.uint8, lambda array: array.fill(5)).tolist() == [5] * 3
