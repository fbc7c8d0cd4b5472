"""Cost of an epoch: seconds of training and of evaluation, and the fraction spent waiting for data."""

from __future__ import annotations

import time
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.harmless import Harmless
from callbacks.metric_names import EPOCH_SECONDS, VIEWS, phase_seconds

Part = Literal['wait', 'step', 'evaluation', 'rest']


class EpochCost(Callback):
    """Times the parts of every training epoch and logs the mean over all ranks.

    - ``cost/train_s``: seconds of training, including waiting for batches, without evaluation and epoch-end work;
      ``cost/train_s/<phase>``: the same under the name of the module's phase;
    - ``cost/views``: augmented views of a pair that were embedded, on average over the pairs;
    - ``cost/evaluation_s``: seconds of evaluation, logged if the epoch had any;
    - ``cost/data_wait``: fraction of the training time between the end of one step and the start of the next. It
      covers reading the batch, moving it to the device and making its views, unless workers and device did that while
      the previous step ran;
    - ``cost/pairs_per_s``: pairs trained per second, over all ranks.
    """

    def __init__(self) -> None:
        self.harmless = Harmless('counting pairs')
        self._reset()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reset()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._book('wait')

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and pl_module.device.type == 'cuda':
            torch.cuda.synchronize(pl_module.device)  # work still queued on the device belongs to training
        self._book('step')
        with self.harmless:
            self._pairs += len(batch.row)
            self._views += len(batch.tokens) * len(batch.row)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._book('rest')

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._book('evaluation')

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        training = self._seconds['wait'] + self._seconds['step']
        if not self._pairs:  # resumed at the end of the epoch, with no steps left
            return
        metrics = {
            EPOCH_SECONDS: training,
            'cost/data_wait': self._seconds['wait'] / training,
            'cost/pairs_per_s': self._pairs * trainer.world_size / training,
        }
        if self._views:
            metrics[VIEWS] = self._views / self._pairs
        if phase := getattr(pl_module, 'phase', None):
            metrics[phase_seconds(phase(trainer.current_epoch))] = training
        if self._seconds['evaluation']:
            metrics['cost/evaluation_s'] = self._seconds['evaluation']
        pl_module.log_dict(metrics, sync_dist=True)

    def _reset(self) -> None:
        self._seconds: dict[Part, float] = {'wait': 0.0, 'step': 0.0, 'evaluation': 0.0, 'rest': 0.0}
        self._pairs = self._views = 0
        self._last_time = time.perf_counter()

    def _book(self, part: Part) -> None:
        """Adds the time since the last call to ``part``."""
        now = time.perf_counter()
        self._seconds[part] += now - self._last_time
        self._last_time = now
