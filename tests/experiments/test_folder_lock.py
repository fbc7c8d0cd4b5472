from __future__ import annotations

import os
from pathlib import Path

import pytest

from datamodules.usage_error import UsageError
from experiments.folder_lock import FolderLock


def in_another_process(folder: Path) -> str:
    """Tries to lock a folder in a forked process, which then dies; returns what it was told."""
    reader, writer = os.pipe()
    if not os.fork():
        try:
            FolderLock(folder)
            os.write(writer, b'locked')
        except UsageError as error:
            os.write(writer, str(error).encode())
        os._exit(1)
    os.close(writer)
    with open(reader) as answer:
        return answer.read()


@pytest.mark.filterwarnings('ignore:This process .* is multi-threaded')
class TestFolderLock:
    def test_another_process_is_told_who_uses_the_folder(self, tmp_path: Path) -> None:
        lock = FolderLock(tmp_path)
        assert in_another_process(tmp_path).startswith(f'{tmp_path} is in use by process {os.getpid()} on ')
        lock.release()
        assert in_another_process(tmp_path) == 'locked'

    def test_a_dead_process_does_not_hold_it(self, tmp_path: Path) -> None:
        assert in_another_process(tmp_path) == 'locked'
        FolderLock(tmp_path).release()

    def test_a_folder_that_cannot_be_written_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'gone cannot be written \(No such file'):
            FolderLock(tmp_path / 'gone')
