"""What an epoch costs: seconds of training and of evaluation, and how much of it is spent waiting for data."""

from __future__ import annotations

import time
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

Part = Literal['wait', 'step', 'evaluation', 'rest']


class EpochCost(Callback):
    """Times the parts of every training epoch and logs the mean over all ranks.

    - ``cost/train_s``: seconds of training, waiting for batches included, evaluation and epoch-end work not;
    - ``cost/evaluation_s``: seconds of evaluation, if there was any;
    - ``cost/data_wait``: fraction of the training time from the end of one step to the start of the next: reading the
      batch, bringing it to the device and making its views, as far as workers and device have not done so meanwhile;
    - ``cost/pairs_per_s``: pairs trained per second over all ranks.
    """

    def __init__(self) -> None:
        self._begin()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._lap('wait')

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and pl_module.device.type == 'cuda':
            torch.cuda.synchronize(pl_module.device)  # what the device still has to do belongs to training
        self._lap('step')
        self._pairs += len(batch.row)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._lap('rest')

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._lap('evaluation')

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        training = self._seconds['wait'] + self._seconds['step']
        if not self._pairs:  # resumed where nothing of the epoch was left to do
            return
        metrics = {
            'cost/train_s': training,
            'cost/data_wait': self._seconds['wait'] / training,
            'cost/pairs_per_s': self._pairs * trainer.world_size / training,
        }
        if self._seconds['evaluation']:
            metrics['cost/evaluation_s'] = self._seconds['evaluation']
        pl_module.log_dict(metrics, sync_dist=True)

    def _begin(self) -> None:
        self._seconds: dict[Part, float] = {'wait': 0.0, 'step': 0.0, 'evaluation': 0.0, 'rest': 0.0}
        self._pairs = 0
        self._since = time.perf_counter()

    def _lap(self, part: Part) -> None:
        """Books the time since the last lap as ``part``."""
        now = time.perf_counter()
        self._seconds[part] += now - self._since
        self._since = now
