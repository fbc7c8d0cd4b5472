"""A run's own folder: what it was told, whether it came to its end, and where it is."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.files.atomic import write_text
from experiments.wandb_run import WandbRun

DONE = 'DONE'  # Lightning 2.6 exits with status 0 when a job is terminated, so the status proves nothing


def claim(trainer: L.Trainer, seeds: str = '') -> None:
    """Creates the folder of the run before any logger writes, and gives W&B its place in it.

    Args:
        trainer: The trainer of the run.
        seeds: Seeds of data and training, for the run's name in W&B, which knows no folders.
    """
    first = trainer.loggers[0] if trainer.loggers else None
    if not isinstance(first, CSVLogger):  # no logger, or another one first: there is no folder of its own
        return
    _ = first.experiment  # creates the folder while it is empty; later the logger would warn of what is in it
    for logger in trainer.loggers:
        if isinstance(logger, WandbRun):
            logger.settle(first.log_dir)
            logger.add_to_name(seeds)


def vacate(trainer: L.Trainer) -> None:
    """Removes the run's folder if it holds nothing, or nothing but W&B's log of a start that failed."""
    first = trainer.loggers[0] if trainer.loggers else None
    if not isinstance(first, CSVLogger) or not trainer.is_global_zero:
        return
    folder = Path(first.log_dir)
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {'wandb'}:
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.give_up()  # it would go on writing
        shutil.rmtree(folder, ignore_errors=True)


def mark_done(trainer: L.Trainer) -> None:
    """Leaves a marker that training came to its planned end; a killed or interrupted run has none."""
    folder = trainer.log_dir  # asks all ranks
    if trainer.state.finished and folder and trainer.is_global_zero:
        summary = {'epochs': trainer.current_epoch, 'steps': trainer.global_step, 'finished': time.strftime('%FT%T%z')}
        write_text(Path(folder, DONE), json.dumps(summary) + '\n')


class RunFolder(Callback):
    """Says where the run is kept and sets up how it is drawn."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # asks all ranks
        if folder and trainer.is_global_zero:
            print(f'Run folder: {folder}', flush=True)

    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.draw_against_epoch()


class ResolvedConfig(SaveConfigCallback):
    """Saves the resolved configuration in the run's folder, and in W&B beside the figures that it led to."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        config = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.experiment.config.update(config, allow_val_change=True)
