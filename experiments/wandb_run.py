"""Weights & Biases inside the run's folder, and online only where the environment says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

EPOCH_METRICS = ('asr/*', 'zero_shot/*', 'zero_shot_top5/*', 'probe/*', 'retrieval/*', 'partition/*', 'cost/*')


def offline_by_environment() -> bool:
    """``WANDB_MODE`` decides; without it a key in the environment means online, and no key offline.

    Lightning's logger would stop a run for want of a key, and ignore ``WANDB_MODE`` when told to be offline.
    """
    mode = os.environ.get('WANDB_MODE')
    return mode not in ('online', 'shared') if mode else 'WANDB_API_KEY' not in os.environ


class WandbRun(WandbLogger):
    """Lightning's W&B logger with this project's defaults.

    Args:
        project: Project that the run belongs to.
        name: Name of the run.
        offline: Keep the log on this machine, to be sent with ``wandb sync`` or not at all. ``None``: the environment
            variables WANDB_MODE and WANDB_API_KEY decide, and without them the log stays here.
        save_dir: Where the log is kept; the folder of the run if ``None``.
        **kwargs: Further arguments of ``wandb.init``, such as ``group`` and ``tags``.
    """

    def __init__(
        self,
        project: str = 'clipward',
        name: str | None = None,
        offline: bool | None = None,
        save_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        offline = offline_by_environment() if offline is None else offline
        super().__init__(name=name, save_dir=save_dir or '.', offline=offline, project=project, **kwargs)
        self.in_run_folder = save_dir is None

    def settle(self, folder: str | Path) -> None:
        """Puts the log into the run's folder, unless ``save_dir`` named another place."""
        if self.in_run_folder:
            self._save_dir = self._wandb_init['dir'] = str(folder)

    def add_to_name(self, seeds: str) -> None:
        """Ends the run's name with its seeds, unless it does already."""
        name = self._name or ''
        if not name.endswith(seeds):
            self._name = self._wandb_init['name'] = f'{name}-{seeds}'.lstrip('-')

    def give_up(self) -> None:
        """Ends a run that has not begun, if W&B has heard of it."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=1)

    def draw_against_epoch(self) -> None:
        """Makes epochs the horizontal axis of what is measured once an epoch; W&B would take steps."""
        run = self.experiment
        run.define_metric('epoch')
        for metric in EPOCH_METRICS:
            run.define_metric(metric, step_metric='epoch')
