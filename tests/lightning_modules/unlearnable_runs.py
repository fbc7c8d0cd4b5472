"""Short runs that make tiny pairs unlearnable."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from datamodules.pictures.noise_store import NoiseStore
from datamodules.rows.table import PairTable
from lightning_modules.unlearnable import MEM
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer

ROWS, BATCH, EPS = 28, 8, 8
SHORT: dict[str, Any] = {'surrogate_steps': 3, 'noise_steps': 2, 'step': 3, 'candidates': 4, 'lr': 1e-2}
Module = TypeVar('Module', bound=MEM)


class TwoCaptions(TinyPairs):
    """Pairs of which the first half has the pictures of the second."""

    def load_table(self) -> PairTable:
        table = super().load_table()
        half = np.arange(self.rows) % (self.rows // 2)
        return PairTable(table.image.take(half), table.caption, table.label[half], table.classes, opener=table.opener)


class Died(Exception):
    pass


class DiesIn(Callback):
    """Raises in a batch of a round, which the module is then in the middle of, or has just finished."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            raise Died


def build(folder: Path, kind: type[Module], **kwargs: Any) -> Module:
    torch.manual_seed(0)
    return kind(architecture=tiny_architecture(folder, 'unlearnable'), **{**SHORT, **kwargs})


def pairs(folder: Path, kind: type[TinyPairs] = TinyPairs, **kwargs: Any) -> TinyPairs:
    return kind(rows=ROWS, batch_size=BATCH, heldout_rows=0, class_names=['cat'], cache_dir=str(folder / 'c'), **kwargs)


def fit(
    folder: Path,
    module: MEM,
    data: TinyPairs | None = None,
    epochs: int = 2,
    resume: Path | None = None,
    callbacks: tuple[Callback, ...] = (),
    **settings: Any,
) -> L.Trainer:
    """Runs a module, with a checkpoint after each round, and returns the trainer."""
    saved = ModelCheckpoint(folder, save_last=True, save_on_train_epoch_end=True, enable_version_counter=False)
    settings = {'max_epochs': epochs, 'default_root_dir': folder, 'enable_checkpointing': True, **settings}
    run = trainer(callbacks=[*callbacks, saved], **settings)
    run.fit(module, data or pairs(folder), ckpt_path=None if resume is None else str(resume))
    return run


def store_of(folder: Path) -> NoiseStore:
    return NoiseStore.open(folder / 'noise')


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {path.name: path.read_bytes() for path in sorted((folder / 'noise').iterdir())}


def pictures_of(module: MEM) -> Tensor:
    """The clean pictures, uint8 (N, 3, H, W)."""
    data: Any = module.protection.data
    return torch.from_numpy(data.images(np.arange(len(data.table))))
