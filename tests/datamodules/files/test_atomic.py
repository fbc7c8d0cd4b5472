from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.files import atomic
from datamodules.files.atomic import (
    continue_atomically,
    fill_atomically,
    remove_leftovers_in,
    reserve_space,
    write_atomically,
    write_bytes,
    write_text,
)
from datamodules.usage_error import UsageError

ROOT = Path(__file__).parents[3]
HANG = """
import sys, time
from pathlib import Path
from datamodules.files.atomic import write_atomically
with write_atomically(sys.argv[1]) as temporary:
    temporary.write_text('half')
    print('writing', flush=True)
    time.sleep(600)
"""


def start_hanging_writer(path: Path) -> subprocess.Popen[str]:
    """Starts a process that hangs in the middle of writing a file."""
    process = subprocess.Popen([sys.executable, '-c', HANG, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == 'writing\n'
    return process


class TestContinuedFile:
    def test_goes_on_where_a_failed_block_ended(self, tmp_path: Path) -> None:
        path = tmp_path / 'new' / 'a.txt'
        with pytest.raises(KeyboardInterrupt), continue_atomically(path) as temporary:
            temporary.write_text('half')
            raise KeyboardInterrupt
        assert not path.exists()
        with continue_atomically(path) as temporary:
            temporary.write_text(temporary.read_text() + ' and half')
        assert path.read_text() == 'half and half' and list(path.parent.iterdir()) == [path]

    def test_a_full_disk_is_one_sentence(self, tmp_path: Path) -> None:
        with (
            pytest.raises(UsageError, match=r'no space is left on the disk of .*a\.txt.*: free some, or buy one'),
            continue_atomically(tmp_path / 'a.txt', 'buy one'),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestFile:
    def test_appears_when_the_block_ends(self, tmp_path: Path) -> None:
        path = tmp_path / 'new' / 'a.txt'
        with write_atomically(path) as temporary:
            temporary.write_text('x')
            assert temporary.parent == path.parent and not path.exists()
        assert path.read_text() == 'x' and list(path.parent.iterdir()) == [path]

    def test_is_replaced_or_stays_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.txt'
        write_text(path, 'é')
        with pytest.raises(KeyboardInterrupt), write_atomically(path) as temporary:
            temporary.write_text('half')
            raise KeyboardInterrupt
        assert path.read_bytes() == 'é'.encode() and list(tmp_path.iterdir()) == [path]
        write_bytes(path, b'z')
        assert path.read_bytes() == b'z'

    def test_has_ordinary_permissions(self, tmp_path: Path) -> None:
        (tmp_path / 'a').write_text('x')
        write_text(tmp_path / 'b', 'x')
        assert (tmp_path / 'a').stat().st_mode == (tmp_path / 'b').stat().st_mode

    def test_a_block_that_writes_nothing_is_a_bug(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), write_atomically(tmp_path / 'a'):
            pass

    @pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_a_full_disk_is_a_usage_error(self, code: int, tmp_path: Path) -> None:
        message = r'no space is left on the disk of .*a\.txt, or a limit is reached: free some, or write to'
        with pytest.raises(UsageError, match=message), write_atomically(tmp_path / 'a.txt') as temporary:
            temporary.write_text('half')
            raise OSError(code, os.strerror(code))
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_is_a_file_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / 'cache').write_text('x')
        with pytest.raises(UsageError, match='cache cannot be created as a folder'):
            write_text(tmp_path / 'cache' / 'a.txt', 'x')

    def test_a_folder_that_may_not_be_written_is_one_sentence(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.txt'
        with pytest.raises(UsageError, match=r'a\.txt cannot be written'), write_atomically(path) as temporary:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(temporary))

    def test_other_errors_are_not_changed(self, tmp_path: Path) -> None:
        with pytest.raises(PermissionError), write_atomically(tmp_path / 'a.txt'):
            raise PermissionError(errno.EACCES, 'denied')


class TestFolder:
    def test_appears_when_the_block_ends(self, tmp_path: Path) -> None:
        (tmp_path / 'out').mkdir()
        with fill_atomically(tmp_path / 'out') as temporary:
            (temporary / 'a').write_text('x')
            assert not list((tmp_path / 'out').iterdir())
        assert (tmp_path / 'out/a').read_text() == 'x' and len(list(tmp_path.iterdir())) == 1

    def test_is_removed_if_the_block_fails(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), fill_atomically(tmp_path / 'out') as temporary:
            (temporary / 'a').write_text('x')
            raise KeyboardInterrupt
        assert not list(tmp_path.iterdir())


class TestLeftovers:
    def test_of_a_killed_process_are_removed_but_not_of_a_live_one(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.txt'
        live, dead = start_hanging_writer(path), start_hanging_writer(path)
        try:
            dead.kill()
            dead.communicate(timeout=60)
            assert len(list(tmp_path.iterdir())) == 2
            write_text(path, 'x')
            (leftover,) = (file for file in tmp_path.iterdir() if file != path)
            assert f'-{live.pid}-' in leftover.name and path.read_text() == 'x'
        finally:
            live.kill()
            live.communicate(timeout=60)
        write_text(path, 'y')
        assert list(tmp_path.iterdir()) == [path]

    def test_of_dead_processes_are_removed_under_any_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(atomic, '_is_alive', lambda process: process == 2)
        kept = [f'a.{atomic._host()}-2-00000000.tmp', 'a.00000000-1-00000000.tmp', 'a.tmp', 'a.txt', 'b.1-1.tmp']
        for name in [*kept, f'[a].{atomic._host()}-1-00000000.tmp', 'b.00000000-1-00000000.tmp']:
            (tmp_path / name).touch()
        (tmp_path / f'folder.{atomic._host()}-1-00000000.tmp' / 'images').mkdir(parents=True)
        os.utime(tmp_path / 'b.00000000-1-00000000.tmp', (0, 0))  # of another host, and long abandoned
        remove_leftovers_in(tmp_path)
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(kept)


def test_space_that_cannot_be_reserved_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, start: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, 'posix_fallocate', refuse)
    reserve_space(tmp_path / 'a', 100_000, tmp_path / 'a')
    assert (tmp_path / 'a').stat().st_blocks * 512 >= (tmp_path / 'a').stat().st_size == 100_000  # not sparse


def test_flushes_the_file_before_and_the_folder_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, replace = [], os.replace
    monkeypatch.setattr(os, 'fsync', lambda handle: flushed.append(time.monotonic()))
    renamed = []
    monkeypatch.setattr(os, 'replace', lambda *paths: (renamed.append(time.monotonic()), replace(*paths)))
    write_text(tmp_path / 'a', 'x')
    assert flushed[0] < renamed[0] < flushed[1]
