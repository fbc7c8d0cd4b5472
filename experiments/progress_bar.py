"""The bar that shows how far an epoch has come, what the run has measured, and the time that is left of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, SupportsFloat

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.progress_bar import ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf

from callbacks.metric_names import ZERO_SHOT_PREFIX, asr_metric
from experiments.measurements import measured_attacks


class NamedProgressBar(TQDMProgressBar):
    """Lightning's bar with the results so far, the time left of the run, epochs counted from 1, and names of sets.

    Args:
        refresh_rate: Batches from one drawing to the next.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._began = 0.0
        self._first_step = 0  # of this process
        self._planned_steps = math.inf

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_start(trainer, *_)
        self._began, self._first_step = time.monotonic(), trainer.global_step
        self._planned_steps = trainer.estimated_stepping_batches

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands beside the bar, without the version of the run, which is printed at the start."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop('v_num', None)
        done, planned = trainer.global_step - self._first_step, self._planned_steps - self._first_step
        left = time_left(time.monotonic() - self._began, done, planned)
        return {**({'left': left} if left else {}), **metrics, **results(trainer.callback_metrics)}

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


def time_left(seconds: float, done: int, planned: float) -> str:
    """How long a run will still take, as ``1:02:03``; empty if that cannot be known.

    Args:
        seconds: How long it has taken until now, evaluation and splits included.
        done: Steps in this time.
        planned: Steps in all.
    """
    if not done or math.isinf(planned):
        return ''
    return str(timedelta(seconds=round(seconds / done * max(0.0, planned - done))))


def results(metrics: Mapping[str, SupportsFloat]) -> dict[str, str]:
    """The newest accuracy, size of the safe side, and success of each attack beside the rate on clean pictures."""
    accuracy = next((float(metrics[name]) for name in metrics if name.startswith(ZERO_SHOT_PREFIX)), None)
    shown = {} if accuracy is None else {'accuracy': f'{accuracy:.3f}'}
    if 'partition/share' in metrics:
        shown['safe'] = f'{float(metrics["partition/share"]):.0%}'
    for attack in measured_attacks(metrics):
        rate, clean = (float(metrics.get(asr_metric(attack, what), math.nan)) for what in ('rate', 'clean'))
        shown[attack] = f'{rate:.0%} (clean {clean:.0%})'
    return shown


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
