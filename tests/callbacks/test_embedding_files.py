from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from callbacks.embedding_files import FILES, EmbeddingFiles
from datamodules.usage_error import UsageError
from tests.callbacks.planted import DDP, PlantedData, PlantedModule, batches_of, quiet_lightning, trainer

PAIRS, WIDTH = 50, 6
ROWS = torch.tensor([row for row in range(PAIRS + 3) if row not in (7, 48)])  # two are dropped, three are canaries
EMBEDDINGS = dict(zip(FILES, torch.randn(2, PAIRS + 3, WIDTH, generator=torch.Generator().manual_seed(0)), strict=True))


def write(trainer: L.Trainer, folder: Path) -> EmbeddingFiles:
    """Writes this process's share of the rows; the files are still open."""
    files = EmbeddingFiles(trainer, folder, PAIRS, WIDTH)
    for row in batches_of(ROWS[trainer.global_rank :: trainer.world_size], 4):
        files.add({'row': row, **{output: values[row] for output, values in EMBEDDINGS.items()}})
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_hold_what_was_embedded_and_no_canaries(tmp_path: Path) -> None:
    write(trainer(1), tmp_path).close()
    swept = ROWS[ROWS < PAIRS]
    for output, name in FILES.items():
        written = np.load(tmp_path / name)
        assert written.shape == (PAIRS, WIDTH) and written.dtype == np.float16
        np.testing.assert_array_equal(written[swept], EMBEDDINGS[output][swept].numpy().astype(np.float16))
        assert np.flatnonzero(np.isnan(written).all(1)).tolist() == [7, 48]


def test_replace_earlier_files_only_when_they_are_closed(tmp_path: Path) -> None:
    earlier = dict.fromkeys(FILES.values(), b'of an earlier predict')
    for name, content in earlier.items():
        (tmp_path / name).write_bytes(content)
    files = write(trainer(1), tmp_path)
    assert earlier.items() < contents(tmp_path).items()  # as a kill would leave them
    files.close()
    assert contents(tmp_path).keys() == earlier.keys() and not earlier.items() & contents(tmp_path).items()


def test_a_failed_predict_leaves_nothing(tmp_path: Path) -> None:
    files = write(trainer(1), tmp_path)
    del files
    assert not contents(tmp_path)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, 'full')

    monkeypatch.setattr('callbacks.embedding_files.fill_with_nan', fail)
    with pytest.raises(UsageError, match=r'no space is left on the disk of .*\.npy'):
        EmbeddingFiles(trainer(1), tmp_path, PAIRS, WIDTH)
    assert not contents(tmp_path)


class WriteAtTheEnd(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        write(trainer, self.folder).close()


@pytest.mark.slow
@quiet_lightning
def test_two_processes_write_the_files_of_one(tmp_path: Path) -> None:
    write(trainer(1), tmp_path / 'one').close()
    trainer(1, WriteAtTheEnd(tmp_path / 'two'), **DDP).fit(PlantedModule(), PlantedData())
    assert contents(tmp_path / 'two') == contents(tmp_path / 'one')


def test_several_machines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'needs all processes on one machine: set trainer\.num_nodes=1\.$'):
        EmbeddingFiles(trainer(1, num_nodes=2), tmp_path, PAIRS, WIDTH)
    assert not any(tmp_path.iterdir())
