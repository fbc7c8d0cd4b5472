"""The folder of a run: its settings, and whether it came to its end."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from datamodules.files.atomic import write_text
from experiments.wandb_run import WandbRun

DONE = 'DONE'  # Lightning 2.6 exits with status 0 when a job is terminated, so the status proves nothing


class RunFolder(Callback):
    """Makes the folder of a run, says where it is, and starts W&B when the run itself starts.

    A run starts with its first training, validation or prediction epoch. Whatever fails before that, such as reading
    the data, leaves neither a folder nor a run in W&B.

    Attributes:
        created: The folder, if it was made by this object.
        started: Whether the run has started.
    """

    def __init__(self) -> None:
        self.created: Path | None = None
        self.started = False

    def create(self, trainer: L.Trainer, seeds: str = '') -> None:
        """Makes the folder before any logger writes, and tells W&B to use it.

        Args:
            trainer: The trainer of the run.
            seeds: Seeds of data and training, for the run's name in W&B, which knows no folders.
        """
        for logger in _wandb_runs(trainer):
            logger.wait_for_start()
        first = trainer.loggers[0] if trainer.loggers else None
        if not isinstance(first, CSVLogger):  # no logger, or another one first: the run has no folder of its own
            return
        existed = Path(first.log_dir).exists()
        _ = first.experiment  # makes the folder while it is empty; later the logger would warn of what is in it
        self.created = None if existed else Path(first.log_dir)
        for logger in _wandb_runs(trainer):
            logger.use_folder(first.log_dir)
            logger.add_to_name(seeds)

    def remove_failed_start(self, trainer: L.Trainer) -> None:
        """Removes the folder of a run that has not started."""
        if self.created is not None and not self.started and trainer.is_global_zero:
            shutil.rmtree(self.created, ignore_errors=True)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # asks all ranks
        if folder and trainer.is_global_zero:
            print(f'Run folder: {folder}', flush=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._start(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)

    def _start(self, trainer: L.Trainer) -> None:
        if not self.started and trainer.is_global_zero:
            for logger in _wandb_runs(trainer):
                logger.start()
        self.started = True


def _wandb_runs(trainer: L.Trainer) -> list[WandbRun]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbRun)]


def mark_done(trainer: L.Trainer) -> None:
    """Leaves a marker that training came to its planned end; a killed or interrupted run has none."""
    folder = trainer.log_dir  # asks all ranks
    if trainer.state.finished and folder and trainer.is_global_zero:
        summary = {'epochs': trainer.current_epoch, 'steps': trainer.global_step, 'finished': time.strftime('%FT%T%z')}
        write_text(Path(folder, DONE), json.dumps(summary) + '\n')


class ResolvedConfig(SaveConfigCallback):
    """Saves the resolved configuration in the run's folder, and in W&B beside the figures that it led to."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        config: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        for logger in _wandb_runs(trainer):
            logger.log_hyperparams(config)
