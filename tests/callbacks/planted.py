"""A module and data whose similarities are planted, so that a split of them is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.rows.partition import SAFE, Partition

WARM_UP = 2  # epochs of the module below before the first that splits
POISONS = 16  # the last rows of the data, planted with a low similarity


class Batch(NamedTuple):
    row: Tensor
    similarity: Tensor


class PlantedModule(L.LightningModule):
    """Two warm-up epochs, then split ones; similarity is planted and moved a little by what was trained."""

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
        noise = 1e-3 * torch.rand(())  # a sweep must leave the generator alone
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
    """64 pairs, the last of them poisons; trains on the safe ones, or on all before there is a split."""

    def __init__(self, fingerprint: str = 'abc') -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.similarity = 0.7 + 0.05 * torch.randn(64, generator=generator)
        self.similarity[-POISONS:] -= 0.6
        self.partition = Partition(64, fingerprint)
        self.swept: list[tuple[str, Any]] = []

    @property
    def manifest(self) -> None:
        raise AssertionError('a defense that saw which pairs are poisoned would prove nothing')

    def loader(self, rows: list[Tensor]) -> DataLoader[Batch]:
        batches: Any = [Batch(part, self.similarity[part]) for part in rows]
        # Lightning makes one iterator more where it resumes; each draws a seed.
        return DataLoader(batches, batch_size=None, generator=torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader(batches_of(self.partition.rows(SAFE), 8))

    def sweep_dataloader(self, **how: Any) -> DataLoader[Batch]:
        self.swept.extend(how.items())
        return self.loader(batches_of(torch.arange(64), 24) if 'rows' not in how else [torch.from_numpy(how['rows'])])

    def state_dict(self) -> dict[str, Any]:
        return {'partition': self.partition.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.partition.load_state_dict(state_dict['partition'])


def trainer(epochs: int, *callbacks: L.Callback, **arguments: Any) -> L.Trainer:
    quiet: dict[str, Any] = {
        'accelerator': 'cpu',
        'logger': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'enable_checkpointing': any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        'reload_dataloaders_every_n_epochs': 1,
    }
    return L.Trainer(max_epochs=epochs, callbacks=list(callbacks), **quiet | arguments)


def quiet_lightning(tests: Any) -> Any:
    """Lets Lightning 2.6 warn about a small machine and about itself on a newer torch."""
    for ignored in ('ignore:.*does not have many workers.*', 'ignore:.*LeafSpec.*:FutureWarning'):
        tests = pytest.mark.filterwarnings(ignored)(tests)
    return tests
