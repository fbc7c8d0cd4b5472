"""Weights & Biases inside the run's folder, and online only where the environment says so."""

from __future__ import annotations

import os
from collections.abc import Callable
from configparser import ConfigParser
from configparser import Error as ConfigError
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger

from callbacks.harmless import Harmless
from datamodules.files.atomic import write_text

DISABLED = 'disabled'  # the WANDB_MODE that writes no files at all
ID_FILE = 'wandb_id'  # in the run's folder, for a resumed run to go on with
QUIET = {'silent': True}  # W&B would print six lines about itself; where the log is, the run says
EPOCH_METRICS = (
    'asr/*',
    'asr_probe/*',
    'asr_knn/*',
    'zero_shot/*',
    'zero_shot_top5/*',
    'probe/*',
    'knn/*',
    'retrieval/*',
    'detect/*',
    'inspect/*',
    'partition/*',
    'cost/*',
)


def offline_by_environment() -> bool:
    """Whether to log offline: W&B's mode decides; if none is set, a key in the environment means online.

    Without a key Lightning's logger would stop the run, and when told to be offline it ignores ``WANDB_MODE``.
    """
    mode = mode_of_wandb()
    return mode not in ('online', 'shared', DISABLED) if mode else 'WANDB_API_KEY' not in os.environ


def mode_of_wandb() -> str | None:
    """``WANDB_MODE`` in lower case; if it is not set, what ``wandb disabled`` or ``wandb offline`` has written."""
    if mode := os.environ.get('WANDB_MODE'):
        return mode.lower()
    settings, folder = ConfigParser(interpolation=None), os.environ.get('WANDB_CONFIG_DIR') or '~/.config/wandb'
    try:  # the file of the working folder comes last, for it has the last word
        settings.read([Path(folder).expanduser() / 'settings', '.wandb/settings', 'wandb/settings'])
    except (ConfigError, UnicodeDecodeError):  # W&B ignores such a file too, and says so
        return None
    return settings.get('default', 'mode', fallback=None)


class WandbRun(WandbLogger):
    """Lightning's W&B logger with this project's defaults, which starts W&B when something is logged, or later.

    Lightning's own starts W&B before the data is read, so that a run that fails there is listed as well.

    Args:
        project: Project that the run belongs to.
        name: Name of the run; ``None`` for that of the command, with the seeds.
        offline: Keep the log on this machine, to be sent with ``wandb sync`` or not at all. ``None``: the environment
            variables WANDB_MODE and WANDB_API_KEY and W&B's settings files decide, and without them the log stays on
            this machine.
        save_dir: Folder of the log; the folder of the run if ``None``.
        id: ID of an earlier run to go on with. A run that resumes in its own folder goes on with its ID anyway.
        entity: User or team that the project belongs to.
        group: Runs of one group are shown together.
        tags: Tags of the run.
        notes: A longer description of the run.
        prefix: What the names of all metrics begin with.
        log_model: Upload checkpoints: the best ones at the end, or ``all`` as they are written. Not offline.
        log_data: Log tables of poisons and of the least similar pairs and figures of pairs, with pictures and captions,
            and the manifest and the ledger of all pairs as artifacts.
        init: Further arguments of ``wandb.init``.
    """

    def __init__(
        self,
        project: str = 'clipward',
        name: str | None = None,
        offline: bool | None = None,
        save_dir: str | None = None,
        id: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        prefix: str = '',
        log_model: Literal['all'] | bool = False,
        log_data: bool = True,
        init: dict[str, Any] | None = None,
    ) -> None:
        # Spelled out: to find the arguments behind `**kwargs`, the parser would import wandb for each command.
        of_logger: dict[str, Any] = {
            'name': name,
            'id': id,
            'project': project,
            'prefix': prefix,
            'log_model': log_model,
        }
        of_run: dict[str, Any] = {'entity': entity, 'group': group, 'tags': tags, 'notes': notes, 'settings': QUIET}
        of_run |= init or {}
        offline = offline_by_environment() if offline is None else offline
        super().__init__(save_dir=save_dir or '.', offline=offline, **of_logger, **of_run)
        self._wandb_init.pop('anonymous')  # it warns of this argument, which Lightning always gives
        self.in_run_folder, self.log_data = save_dir is None, log_data
        self.harmless = Harmless('logging to W&B')
        self._id_file: Path | None = None
        self.started = self._waits_for_start = False
        self._waiting: list[Callable[[], None]] = []

    def use_folder(self, folder: Path) -> None:
        """Puts the log into the run's folder, unless ``save_dir`` named another one, and goes on with its W&B run."""
        if self.in_run_folder:
            self._save_dir = self._wandb_init['dir'] = str(folder)
        self._id_file = folder / ID_FILE
        if self._id is None and self._id_file.exists():
            self._id = self._wandb_init['id'] = self._id_file.read_text().strip()

    def use_name(self, name: str, seeds: str) -> None:
        """Names the run after the command unless it has a name, and ends the name with the seeds."""
        name = self._name or name
        if not name.endswith(seeds):
            self._name = self._wandb_init['name'] = f'{name}-{seeds}'.lstrip('-')

    def wait_for_start(self) -> None:
        """Keeps what is logged from now on until :meth:`start`."""
        self._waits_for_start = True

    def start(self) -> None:
        """Starts W&B, draws what is measured once an epoch against epochs, and logs what has been waiting.

        If W&B cannot start, nothing more is sent to it.
        """
        if self.started:
            return
        self.started = True
        if 'WANDB_MODE' in os.environ:
            os.environ['WANDB_MODE'] = os.environ['WANDB_MODE'].lower()  # W&B refuses capitals
        with self.harmless:
            run = self.experiment
            if self._id_file is not None and not run.disabled:
                write_text(self._id_file, f'{run.id}\n')
            run.define_metric('epoch')
            for metric in EPOCH_METRICS:  # W&B would draw them against steps
                run.define_metric(metric, step_metric='epoch')
        if self._experiment is None:
            self._experiment = _DummyExperiment()  # type: ignore[assignment]  # instead of trying again at each step
            self._waiting.clear()
        while self._waiting:
            with self.harmless:
                self._waiting.pop(0)()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run in W&B. Before :meth:`start`, an object that starts W&B as soon as it is used."""
        return super().experiment if self.started else _NotStarted(self)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._log_when_started(partial(super().log_hyperparams, *args, **kwargs))

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self._log_when_started(partial(super().log_metrics, *args, **kwargs))

    def _log_when_started(self, call: Callable[[], None]) -> None:
        if self._waits_for_start and not self.started:
            self._waiting.append(call)
        else:
            self.start()
            with self.harmless:
                call()


def wandb_runs(trainer: L.Trainer) -> list[WandbRun]:
    """The W&B loggers of a trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbRun)]


class _NotStarted:
    """Stands for the run in W&B until somebody uses it; Lightning asks for it early, and does nothing with it."""

    def __init__(self, logger: WandbRun) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        self._logger.start()
        return getattr(self._logger.experiment, name)
