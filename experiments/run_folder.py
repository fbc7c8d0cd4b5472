"""The folder of a run: who uses it, its history, and whether it came to its end."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback

from datamodules.files.atomic import write_text
from experiments.checkpoint_choice import FOLDER
from experiments.folder_lock import FolderLock
from experiments.run_log import HISTORY, RunLog, history, restore_history
from experiments.run_place import Place, claim
from experiments.tensorboard_run import tensorboard_runs
from experiments.wandb_run import wandb_runs

DONE = 'DONE'  # Lightning 2.6 exits with status 0 when a job is terminated, so the status proves nothing
STARTS = 'starts.jsonl'


class RunFolder(Callback):
    """Makes the folder of a run or opens that of the run it resumes, says where it is, and starts W&B.

    A run starts with its first training, validation or prediction epoch. Whatever fails before that, such as reading
    the data, leaves neither a folder nor a run in W&B.

    Attributes:
        path: The folder; ``None`` before :meth:`create`, without a log, and on all processes but the first.
        place: Where it is.
        started: Whether the run has started.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.place = Place(Path())
        self.started = False
        self._resumes = False  # in the folder that it has
        self._made: list[Path] = []  # folders that were not there, the innermost one first
        self._lock: FolderLock | None = None

    def create(self, trainer: L.Trainer, place: Place, seeds: str = '') -> None:
        """Makes and locks the folder before any logger writes, and tells the loggers to use it.

        Args:
            trainer: The trainer of the run.
            place: Where the folder is to be.
            seeds: Seeds of data and training, for the run's name in W&B, which knows no folders.

        Raises:
            UsageError: If another process uses the folder, or it cannot be made.
        """
        self.place, resumed = place, place.resumed
        self._resumes = resumed is not None
        for logger in wandb_runs(trainer):
            logger.wait_for_start()
        log = next((logger for logger in trainer.loggers if isinstance(logger, RunLog)), None)
        if log is None or not trainer.is_global_zero:  # a dry run has no log
            return
        self._made = [] if resumed else [path for path in (place.parent, *place.parent.parents) if not path.exists()]
        self.path = resumed or claim(place)
        self._lock = FolderLock(self.path, 'With another --name, a run branches off.')
        log.use_folder(self.path)
        for board in tensorboard_runs(trainer):
            board.use_folder(self.path)
        for logger in wandb_runs(trainer):
            logger.use_folder(self.path)
            logger.use_name(place.parent.name, seeds)

    def close(self) -> None:
        """Lets other processes use the folder. That of a run that has not started is removed."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self.started or self._resumes:
            return
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
        _remove_empty(self._made)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # asks all ranks
        if folder and trainer.is_global_zero:
            print(f'Run folder: {folder}', flush=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[HISTORY] = history(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != 'fit':
            return
        for board in tensorboard_runs(trainer) if self._resumes and trainer.is_global_zero else ():
            board.go_on_from(checkpoint['global_step'])
        if HISTORY in checkpoint:  # not if an earlier release has saved it
            restore_history(trainer, checkpoint[HISTORY])
        if self._resumes:  # perhaps after the folder was moved, or in another spelling
            _move_paths(checkpoint['callbacks'].values(), getattr(trainer.checkpoint_callback, 'dirpath', None))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not in `on_train_start`, where other callbacks may still refuse to train.
        if self.started:
            return
        self._start(trainer)
        if self._resumes:
            trainer.ckpt_path = None  # else Lightning would keep that file for ever beside those that follow it
        if self.path is not None:
            (self.path / DONE).unlink(missing_ok=True)
            _remove_leftovers(self.path)
            _note_start(self.path / STARTS, self.place.checkpoint, trainer.current_epoch)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._start(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)

    def _start(self, trainer: L.Trainer) -> None:
        if not self.started and trainer.is_global_zero:
            for logger in wandb_runs(trainer):
                logger.start()
        self.started = True

    def mark_done(self, trainer: L.Trainer) -> Path | None:
        """Leaves a marker that training came to its planned end; a killed or interrupted run has none.

        A run that was killed after its last epoch gets it when it is resumed, though there is nothing left to train.

        Returns:
            The folder of the run; ``None`` if this process has marked none.
        """
        if self.path is None or not trainer.state.finished or not (self.started or self._resumes):
            return None
        if not self.started and (trainer.max_epochs or 0) < _planned_epochs(self.path):  # resumed as a shorter run
            return None
        summary = {'epochs': trainer.current_epoch, 'steps': trainer.global_step, 'finished': time.strftime('%FT%T%z')}
        write_text(self.path / DONE, json.dumps(summary) + '\n')
        return self.path


def _planned_epochs(run: Path) -> int:
    """The epochs that a run is to have by its ``config.yaml``; 0 if that does not tell."""
    try:
        return int(yaml.safe_load((run / 'config.yaml').read_text(encoding='utf-8'))['trainer']['max_epochs'])
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return 0


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders up to the first that something else has been put into."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _remove_leftovers(run: Path) -> None:
    """Removes what a killed process was writing. The run is locked, so no other process writes there."""
    for folder in (run, run / FOLDER, run / 'figures'):
        for leftover in folder.glob('*.*-*-*.tmp'):
            leftover.unlink(missing_ok=True)


def _note_start(path: Path, checkpoint: Path | None, epochs: int) -> None:
    """Adds a line that says from which checkpoint the run started, or went on, and when."""
    line = {'started': time.strftime('%FT%T%z'), 'checkpoint': checkpoint and str(checkpoint), 'epochs': epochs}
    earlier = path.read_text() if path.exists() else ''
    write_text(path, f'{earlier}{json.dumps(line)}\n')


def _move_paths(states: Iterable[Any], dirpath: str | os.PathLike[str] | None) -> None:
    """Makes the state of checkpoint callbacks name the files of a run by the paths that they have now."""

    def move(path: str) -> str:
        return path and os.path.join(dirpath or '', PurePath(path).name)

    for state in states:
        if dirpath is not None and isinstance(state, dict) and 'best_k_models' in state:
            state |= {name: move(state[name]) for name in ('best_model_path', 'kth_best_model_path', 'last_model_path')}
            state |= {'dirpath': dirpath, 'best_k_models': {move(p): s for p, s in state['best_k_models'].items()}}
