from __future__ import annotations

import concurrent.futures
import errno
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from datamodules.files import building
from datamodules.files.building import make_once
from datamodules.usage_error import UsageError

ROOT = Path(__file__).parents[3]
HANG = """
import sys, time
from pathlib import Path
from datamodules.files.building import make_once
def make(temporary):
    temporary.write_text('half')
    print('making', flush=True)
    time.sleep(600)
make_once(Path(sys.argv[1]), make)
"""


def refuse(temporary: Path) -> None:
    raise AssertionError('made again')


class TestTwoProcesses:
    """Threads stand for processes: each opens the lock for itself."""

    def start_two(self, path: Path, makes: Any) -> tuple[Future[None], Future[None], Event]:
        """Starts a thread that makes a file until an event is set, and one that asks for it meanwhile."""
        started, finish, waiting = Event(), Event(), Event()

        def make_slowly(temporary: Path) -> None:
            started.set()
            assert finish.wait(60)
            makes(temporary)

        def ask() -> None:
            waiting.set()
            make_once(path, lambda temporary: temporary.write_text('second'))

        threads = ThreadPoolExecutor(2)
        first = threads.submit(make_once, path, make_slowly)
        assert started.wait(60)
        second = threads.submit(ask)
        assert waiting.wait(60)
        threads.shutdown(wait=False)
        return first, second, finish

    def test_one_makes_the_file_and_the_other_waits(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        first, second, finish = self.start_two(tmp_path / 'x', lambda temporary: temporary.write_text('first'))
        with pytest.raises(concurrent.futures.TimeoutError):  # the built-in one from Python 3.11 on
            second.result(0.05)
        finish.set()
        first.result(60), second.result(60)
        assert (tmp_path / 'x').read_text() == 'first' and list(tmp_path.iterdir()) == [tmp_path / 'x']
        assert caplog.messages == [f'waiting for another process that makes {tmp_path / "x"}']

    def test_the_other_makes_it_if_the_first_fails(self, tmp_path: Path) -> None:
        first, second, finish = self.start_two(tmp_path / 'x', refuse)
        finish.set()
        second.result(60)
        assert isinstance(first.exception(60), AssertionError)
        assert (tmp_path / 'x').read_text() == 'second' and list(tmp_path.iterdir()) == [tmp_path / 'x']

    @pytest.mark.parametrize('missing', ['system', 'file system'])
    def test_without_locks_both_make_it(self, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(file: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, 'no locks')

        if missing == 'system':
            monkeypatch.setattr(building, 'fcntl', None)
        else:
            monkeypatch.setattr(building.fcntl, 'flock', fail)
        first, second, finish = self.start_two(tmp_path / 'x', lambda temporary: temporary.write_text('first'))
        second.result(60)
        assert (tmp_path / 'x').read_text() == 'second'
        finish.set()
        first.result(60)
        assert (tmp_path / 'x').read_text() == 'first' and list(tmp_path.iterdir()) == [tmp_path / 'x']


def test_what_a_killed_process_leaves_is_removed(tmp_path: Path) -> None:
    command = [sys.executable, '-c', HANG, str(tmp_path / 'x')]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == 'making\n'
    process.kill()
    process.communicate(timeout=60)
    assert {file.suffix for file in tmp_path.iterdir()} == {'.tmp', '.lock'}
    make_once(tmp_path / 'x', Path.touch)
    assert list(tmp_path.iterdir()) == [tmp_path / 'x']


def test_a_read_only_folder_will_do_if_the_file_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_to_create(path: Path, flags: int, mode: int) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    make_once(tmp_path / 'x.npy', Path.touch)
    monkeypatch.setattr(building.os, 'open', refuse_to_create)
    make_once(tmp_path / 'x.npy', refuse)
    message = r'y\.npy cannot be written \(Read-only file system\): set data.cache_dir to another folder\.$'
    with pytest.raises(UsageError, match=message):
        make_once(tmp_path / 'y.npy', refuse)


@pytest.mark.parametrize('name', ['file/x', 'a' * 300, 'loop/x'])
def test_names_that_cannot_be_are_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(UsageError, match=r'cannot be .*: set data\.cache_dir to another folder'):
        make_once(tmp_path / name, refuse)


def test_a_dangling_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / 'x').symlink_to('gone')
    make_once(tmp_path / 'x', Path.touch)
    assert (tmp_path / 'x').is_file() and not (tmp_path / 'x').is_symlink()
