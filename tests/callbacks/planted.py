"""A module and data with planted similarities, so that their split is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.rows.partition import SAFE, Partition

WARM_UP = 2  # epochs of the module before the first split
POISONS = 16  # number of poisons: the last rows, with a low similarity
DDP: dict[str, Any] = {'strategy': 'ddp_spawn', 'devices': 2, 'use_distributed_sampler': False}


class Batch(NamedTuple):
    row: Tensor
    similarity: Tensor


class PlantedModule(L.LightningModule):
    """Has two warm-up epochs, then trains both sides; training changes the planted similarities slightly."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm1d(1)
        self.frozen = nn.Dropout(0.5)
        self.seen: list[list[int]] = []

    def sides(self, epoch: int) -> dict[str, int]:
        return (
            ({'within_modal': 2}, {'cross_modal': 1})[epoch]
            if epoch < WARM_UP
            else {'cross_modal': 1, 'within_modal': 2}
        )

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.seen.append(batch.row.tolist())
        noise = 1e-3 * torch.rand(())  # reveals a sweep that changes the generator
        loss = (self.weight - batch.row.float().mean() / 64 + noise) ** 2 + 0 * self.norm(
            batch.similarity[:, None]
        ).sum()
        return {'loss': loss, 'similarity': (batch.similarity + 0.01).detach()}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        assert not self.training and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        torch.rand(3)
        return {'row': batch.row, 'similarity': batch.similarity + 0.001 * self.weight}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches_of(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class PlantedData(L.LightningDataModule):
    """64 pairs, the last of them poisons; trains on safe pairs, which are all pairs before the first split."""

    def __init__(self, fingerprint: str = 'abc') -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.similarity = 0.7 + 0.05 * torch.randn(64, generator=generator)
        self.similarity[-POISONS:] -= 0.6
        self.partition = Partition(64, fingerprint)
        self.tokens = np.arange(64)[:, None]
        self.trusted_rows = np.zeros(0, np.int64)
        self.swept: list[tuple[str, Any]] = []

    @property
    def manifest(self) -> None:
        raise AssertionError('a defense must not read the manifest')

    def loader(self, rows: list[Tensor]) -> DataLoader[Batch]:
        batches: Any = [Batch(part, self.similarity[part]) for part in rows]
        # Lightning makes one more iterator when it resumes, and each iterator draws a seed.
        return DataLoader(batches, batch_size=None, generator=torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader(batches_of(self.partition.rows(SAFE), 8))

    def sweep_dataloader(self, **arguments: Any) -> DataLoader[Batch]:
        self.swept.extend(arguments.items())
        if (rows := arguments.get('rows')) is not None:
            return self.loader([torch.from_numpy(rows)])
        return self.loader(batches_of(torch.arange(64), 24))

    def state_dict(self) -> dict[str, Any]:
        return {'partition': self.partition.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.partition.load_state_dict(state_dict['partition'])


def trainer(epochs: int, *callbacks: L.Callback, **arguments: Any) -> L.Trainer:
    settings: dict[str, Any] = {
        'accelerator': 'cpu',
        'logger': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'enable_checkpointing': any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        'reload_dataloaders_every_n_epochs': 1,
    }
    return L.Trainer(max_epochs=epochs, callbacks=list(callbacks), **settings | arguments)


def quiet_lightning(tests: Any) -> Any:
    """Ignores Lightning 2.6's warnings about few workers and about its own use of a newer torch."""
    for ignored in ('ignore:.*does not have many workers.*', 'ignore:.*LeafSpec.*:FutureWarning'):
        tests = pytest.mark.filterwarnings(ignored)(tests)
    return tests
