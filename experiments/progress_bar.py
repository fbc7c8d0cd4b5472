"""The bar that shows how far an epoch has come."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.progress_bar import ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf


class NamedProgressBar(TQDMProgressBar):
    """Lightning's bar with epochs counted from 1, as in the plan, and the names of the sets that are measured.

    Our own lines can be drawn below it.

    Args:
        refresh_rate: Batches from one drawing to the next.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The numbers beside the bar, without the version of the run, which is printed at the start."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop('v_num', None)
        return metrics

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description(f'Epoch {trainer.current_epoch + 1}')

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx):
            total = self.total_val_batches_current_dataloader
            _begin(self.val_progress_bar, total, f'Validation {set_name(trainer, dataloader_idx)}')

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx):
            total = self.total_test_batches_current_dataloader
            _begin(self.test_progress_bar, total, f'Testing {set_name(trainer, dataloader_idx)}')

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx):
            _begin(self.predict_progress_bar, self.total_predict_batches_current_dataloader, 'Predicting')


def with_progress_bar(callbacks: Any, enabled: bool) -> list[Callback]:
    """Adds a bar to the configured callbacks unless they have one; without ``enabled``, leaves out any.

    Args:
        callbacks: A list of callbacks, a single one, or ``None``.
        enabled: Whether progress is to be shown.
    """
    given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] * (callbacks is not None)
    others = [callback for callback in given if not isinstance(callback, ProgressBar)]
    if not enabled:
        return others
    return given if len(others) < len(given) else [NamedProgressBar(), *given]


def set_name(trainer: L.Trainer, index: int) -> str:
    """Name of an evaluation set; its number where the data names none."""
    sets = getattr(getattr(trainer, 'datamodule', None), 'evaluation_sets', ())
    return str(sets[index].name) if index < len(sets) else str(index)


def _begin(bar: Tqdm, total: int | float, description: str) -> None:
    bar.reset(convert_inf(total))
    bar.initial = 0
    bar.set_description(description)
