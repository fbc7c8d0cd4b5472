from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from datamodules.files.locks import LOCK_FILE, FolderInUseError, _acquire, lock
from datamodules.usage_error import UsageError


def test_a_folder_has_one_holder_who_is_named(tmp_path: Path) -> None:
    folder = tmp_path / 'new'
    with lock(folder):
        message = rf'new is in use by process {os.getpid()} on .+ or what it started: wait until'
        with pytest.raises(FolderInUseError, match=message), lock(folder):
            pass
        with lock(tmp_path / 'other'):
            pass
    assert list(folder.iterdir()) == []
    with lock(folder):
        pass


def test_a_failure_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock(tmp_path):
        raise KeyboardInterrupt
    with lock(tmp_path):
        pass


def test_the_file_of_a_dead_holder_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / '.lock').write_text('process 1 on a machine that is gone, with a long name')
    with lock(tmp_path):
        assert (tmp_path / '.lock').read_text().startswith(f'process {os.getpid()} on')
        assert 'gone' not in (tmp_path / '.lock').read_text()


@pytest.mark.skipif(os.name == 'nt', reason='nothing is locked on Windows')
def test_a_child_that_inherits_the_lock_holds_it_until_it_ends(tmp_path: Path) -> None:
    file = _acquire(tmp_path / LOCK_FILE)
    child = subprocess.Popen(['cat'], stdin=subprocess.PIPE, pass_fds=[file])
    os.close(file)  # as the system does when it kills the holder
    with pytest.raises(FolderInUseError), lock(tmp_path):
        pass
    child.communicate()
    with lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    message = r'file/run cannot be written \(Not a directory\): choose another folder'
    with pytest.raises(UsageError, match=message), lock(tmp_path / 'file' / 'run'):
        pass
