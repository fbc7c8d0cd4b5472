"""A small run to observe: a real Lightning loop with planted logits and similarities."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.attacks.base import AttackPool, Manifest, Poison
from datamodules.evaluation.sets import EvalBatch, EvaluationSet, evaluation_loader
from datamodules.pictures.images import ArrayImages
from datamodules.rows.partition import Partition
from datamodules.rows.table import PairTable

CLASSES = ('cat', 'dog', 'boat')
ROWS = 60
BATCH = 10
POISONS = {'badnet': range(40, 48), 'targeted': range(48, 52)}
WARM_UP = 2  # epochs of the module before the first split


QUIET = [  # Lightning 2.6 warns about a small machine, and about itself on a newer torch
    pytest.mark.filterwarnings('ignore:.*does not have many workers.*'),
    pytest.mark.filterwarnings('ignore:.*LeafSpec.*:FutureWarning'),
    pytest.mark.filterwarnings('ignore:Total length of `list` across ranks is zero'),
]


class Batch(NamedTuple):
    row: Tensor
    similarity: Tensor
    tokens: Tensor = torch.zeros(1, BATCH, 2, dtype=torch.int64)


def evaluation_set(name: str, label: list[int], target: list[int] | None, classes: int = len(CLASSES)) -> EvaluationSet:
    """Images with their number in the first pixel, by which a module looks up its logits."""
    images = np.zeros((len(label), 3, 1, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(label))
    names = tuple(f'class {i}' for i in range(classes))
    targets = None if target is None else np.array(target)
    return EvaluationSet(name, images, np.array(label), targets, names, ('a {}',))


def batches(source: EvaluationSet, size: int, rank: int = 0, world: int = 1) -> list[EvalBatch]:
    return list(evaluation_loader(source, size, rank, world))


def numbers(batch: EvalBatch) -> Tensor:
    """Numbers of the images in a batch."""
    return batch.image[:, 0, 0, 0].long()


def table() -> PairTable:
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 3), np.uint8)
    captions = [f'a {CLASSES[row % 3]}, number {row}' for row in range(ROWS)]
    return PairTable([str(row) for row in range(ROWS)], captions, classes=CLASSES, opener=ArrayImages(images))


def manifest(pairs: PairTable) -> Manifest:
    """Poisons at known rows. Those of badnet all target boats, those of targeted each class in turn."""
    target_of = {'badnet': lambda row: 2, 'targeted': lambda row: row % 3}
    poisons = {
        attack: [Poison(row, 'train', target_of[attack](row), f'poison {row}', row) for row in rows]
        for attack, rows in POISONS.items()
    }
    return Manifest.of(poisons, {}, AttackPool(pairs, None, CLASSES, ('a {}',)))


class Data(L.LightningDataModule):
    """The attributes of a ``PairsDataModule`` that observers read."""

    canary_count = 0
    tokens = np.arange(ROWS)[:, None]

    def __init__(self, sets: list[EvaluationSet] | None = None, is_poisoned: bool = True) -> None:
        super().__init__()
        self.table = table()
        self.manifest = manifest(self.table) if is_poisoned else Manifest(manifest(self.table).table[:0], ROWS)
        self.partition = Partition(ROWS, self.table.fingerprint)
        self.evaluation_sets = sets or []
        self.similarity = torch.linspace(-0.5, 0.5, ROWS)

    def images(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(self.table.open(int(row))).transpose(2, 0, 1) for row in rows])

    def train_dataloader(self) -> DataLoader[Any]:
        rows = torch.arange(ROWS).split(BATCH)
        return DataLoader([Batch(part, self.similarity[part]) for part in rows], batch_size=None)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()

    def val_dataloader(self) -> list[DataLoader[EvalBatch]]:
        return [evaluation_loader(source, BATCH) for source in self.evaluation_sets]

    test_dataloader = val_dataloader


class Answers(L.LightningModule):
    """Returns planted outputs: logits (N, C) of each evaluation set, and the similarities in a batch."""

    def __init__(self, logits: list[Tensor] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.logits = logits or []

    def phase(self, epoch: int) -> str:
        return 'unimodal' if epoch < WARM_UP else 'mixed'

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {'loss': self.weight**2, 'similarity': batch.similarity + 0.1 * self.current_epoch}

    def validation_step(self, batch: EvalBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return {'logits': self.logits[dataloader_idx][numbers(batch)]}

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {'row': batch.row, 'similarity': batch.similarity}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class MakeSplits(Callback):
    """Splits after the warm-up and every later epoch, as a repartition does: rows from ``first_safe`` on are safe."""

    def __init__(self, score: Tensor, first_safe: int) -> None:
        self.score, self.first_safe = score, first_safe

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        partition = trainer.datamodule.partition
        if trainer.current_epoch + 1 >= WARM_UP:
            partition.epoch = partition.scored_after = trainer.current_epoch + 1
            partition.side = (torch.arange(ROWS) < self.first_safe).to(torch.int8)
            partition.score = self.score.clone()
            partition.mixture = {
                'mean_low': 0.0, 'mean_high': 0.5, 'sd_low': 0.1, 'sd_high': 0.2, 'weight_low': 0.3, 'weight_high': 0.7,
                'threshold': float(self.score[self.first_safe :].min()),
            }  # fmt: skip


def trainer(folder: Path, callbacks: list[Callback], epochs: int = 3, **kwargs: Any) -> L.Trainer:
    settings = {
        'accelerator': 'cpu',
        'logger': CSVLogger(folder, name='', version=''),
        'num_sanity_val_steps': 0,
        'log_every_n_steps': 1,
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'enable_checkpointing': False,
    }
    return L.Trainer(max_epochs=epochs, callbacks=callbacks, **settings | kwargs)
