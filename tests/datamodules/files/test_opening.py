from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from datamodules.files.opening import fault_of, open_file


def fault(path: str | Path, max_bytes: int = 100, folder: Path | None = None) -> str:
    with pytest.raises((OSError, ValueError)) as error:
        open_file(path, max_bytes, None if folder is None else os.path.realpath(folder))
    return fault_of(error.value)


def test_opens_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / 'a').write_bytes(b'content')
    (tmp_path / 'link').symlink_to('a')
    for folder in (None, os.path.realpath(tmp_path)):
        with open_file(tmp_path / 'link', 7, folder) as file:
            assert file.read() == b'content'


def test_never_waits_for_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'fifo')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'circle').symlink_to('circle')
    (tmp_path / 'device').symlink_to('/dev/zero')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / 'socket'))
        for name in ('fifo', 'folder', 'circle', 'device', 'socket'):
            assert fault(tmp_path / name) == 'not a file'


def test_tells_why_a_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / 'root').mkdir()
    (tmp_path / 'large').write_bytes(bytes(101))
    assert fault(tmp_path / 'large') == 'too large'
    assert fault(tmp_path / 'large', 101, tmp_path / 'root') == 'outside'
    assert fault(tmp_path / 'root/../absent') == fault(tmp_path / ('x' * 300)) == 'missing'
    assert fault(tmp_path / 'large/below') == 'missing'
    assert fault(tmp_path / 'nul\0') == 'damaged'
    assert fault_of(PermissionError(13, '')) == 'no permission'


def test_leaks_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 0
    for _ in range(3):
        fault(tmp_path)
    assert before == (len(os.listdir('/proc/self/fd')) if before else 0)


def test_a_link_that_appears_after_the_check_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'secret').touch()
    (tmp_path / 'link').symlink_to('secret')
    monkeypatch.setattr('datamodules.files.opening.real_path', str)
    assert fault(tmp_path / 'link', folder=tmp_path) == 'not a file'
