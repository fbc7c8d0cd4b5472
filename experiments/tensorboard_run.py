"""TensorBoard's log inside the run's folder, one curve for a run that was killed and resumed."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

FOLDER = 'tensorboard'


class TensorBoardRun(TensorBoardLogger):
    """Lightning's TensorBoard logger, which writes into ``tensorboard/`` of the run's folder.

    What a killed process has logged after its last checkpoint is hidden when the run is resumed.

    Args:
        prefix: What the names of all metrics begin with.
    """

    def __init__(self, prefix: str = '') -> None:
        super().__init__('.', name='', version=FOLDER, default_hp_metric=False, prefix=prefix)

    def use_folder(self, folder: Path) -> None:
        """Puts the log into the run's folder; needed on the process that writes, before it logs."""
        self._root_dir = str(folder)

    def go_on_from(self, step: int) -> None:
        """Hides what an earlier process has logged from a step on."""
        if self._experiment is not None:
            self._experiment.close()
        self._experiment, self._kwargs['purge_step'] = None, step  # the next use opens another file of the log


def tensorboard_runs(trainer: L.Trainer) -> list[TensorBoardRun]:
    """The TensorBoard loggers of a trainer that log into the run's folder."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardRun)]
