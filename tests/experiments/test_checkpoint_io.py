from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.files.atomic import _host
from datamodules.usage_error import UsageError
from experiments.checkpoint_io import AtomicCheckpointIO, remove_leftover_checkpoints


class Unpicklable:
    """Makes saving fail after part of the file has been written."""

    def __reduce__(self) -> str:
        raise RuntimeError('the disk is full')


@pytest.fixture
def dead_pid() -> int:
    """Number of a process that is over."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


class TestAtomicCheckpointIO:
    def test_what_was_saved_loads_with_weights_only(self, tmp_path: Path) -> None:
        io, path = AtomicCheckpointIO(), tmp_path / 'deep' / 'last.ckpt'
        io.save_checkpoint({'state_dict': {'towers.weight': torch.arange(3)}, 'epoch': 2}, path)
        loaded = io.load_checkpoint(path, weights_only=True)
        assert loaded['epoch'] == 2 and torch.equal(loaded['state_dict']['towers.weight'], torch.arange(3))

    def test_nothing_but_the_checkpoint_is_left(self, tmp_path: Path) -> None:
        AtomicCheckpointIO().save_checkpoint({'epoch': 1}, tmp_path / 'last.ckpt')
        assert os.listdir(tmp_path) == ['last.ckpt']

    def test_the_last_good_one_survives_a_failed_write(self, tmp_path: Path) -> None:
        io, path = AtomicCheckpointIO(), tmp_path / 'last.ckpt'
        good: dict[str, Any] = {'epoch': 1, 'state_dict': {'towers.weight': None}}
        io.save_checkpoint(good, path)
        with pytest.raises(RuntimeError, match='disk is full'):
            io.save_checkpoint({'epoch': 2, 'bad': Unpicklable()}, path)
        assert io.load_checkpoint(path, weights_only=True) == good
        assert os.listdir(tmp_path) == ['last.ckpt']

    def test_a_state_that_lightning_would_not_read_is_refused_while_the_run_lives(self, tmp_path: Path) -> None:
        # lightning 2.6.6 saves it, and refuses it when the run is resumed
        states = {'Figures': {'rows': torch.arange(2)}, 'Best': {'score': np.mean([0.5, 1.0])}}
        with pytest.raises(UsageError, match='The state of Best cannot be resumed from'):
            AtomicCheckpointIO().save_checkpoint({'epoch': 1, 'callbacks': states}, tmp_path / 'last.ckpt')
        assert not os.listdir(tmp_path)

    def test_the_file_is_never_seen_half_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        io, path = AtomicCheckpointIO(), tmp_path / 'last.ckpt'
        io.save_checkpoint({'epoch': 1}, path)
        before = path.read_bytes()
        seen: list[bytes] = []
        rename = os.replace
        monkeypatch.setattr(os, 'replace', lambda *paths: seen.append(path.read_bytes()) or rename(*paths))
        io.save_checkpoint({'epoch': 2}, path)
        assert seen == [before]
        assert path.read_bytes() != before

    def test_removes_what_a_killed_process_left(self, tmp_path: Path, dead_pid: int) -> None:
        leftover = tmp_path / f'epoch=3-step=5.ckpt.{_host()}-{dead_pid}-0123abcd.tmp'
        leftover.write_bytes(b'half')
        AtomicCheckpointIO().save_checkpoint({'epoch': 1}, tmp_path / 'last.ckpt')
        assert os.listdir(tmp_path) == ['last.ckpt']


def test_leftovers_of_running_processes_and_of_other_files_stay(tmp_path: Path) -> None:
    names = {f'last.ckpt.{_host()}-{os.getppid()}-0123abcd.tmp', 'notes.tmp', 'last.ckpt', 'table.tmpx1'}
    for name in names:
        (tmp_path / name).touch()
    remove_leftover_checkpoints(tmp_path)
    assert set(os.listdir(tmp_path)) == names
