"""The metrics of a run: ``metrics.csv`` in its folder, and a copy in each checkpoint."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from datamodules.files.atomic import write_atomically, write_text
from datamodules.usage_error import UsageError

HISTORY = 'run_log'  # its key in a checkpoint


class RunLog(CSVLogger):
    """Writes ``metrics.csv`` into the folder of a run.

    Lightning's logger deletes the file when it opens the folder of an earlier process, and writes a new header in
    place. This one goes on with the file.

    Args:
        prefix: What the names of all metrics begin with.
    """

    def __init__(self, prefix: str = '') -> None:
        super().__init__('.', name=None, version='', prefix=prefix)

    def use_folder(self, folder: Path) -> None:
        """Sets the folder; needed on the process that writes, before it logs."""
        self._save_dir, self._version = str(folder.parent), folder.name

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFile:
        """Writes the file, on the first process."""
        if not isinstance(self._experiment, MetricsFile):
            self._experiment = MetricsFile(self.log_dir)
        return self._experiment

    def save(self) -> None:
        """Appends what has been logged.

        Raises:
            UsageError: If the file cannot be written.
        """
        try:
            super().save()
        except OSError as error:
            raise UsageError(
                f'{self.log_dir}/{MetricsFile.NAME_METRICS_FILE} cannot be written ({error.strerror}): mend that, '
                f'then resume with --ckpt_path=last.'
            ) from error


def with_run_log(given: Logger | Iterable[Logger] | bool | None) -> list[Logger]:
    """The loggers of a run: its own ``metrics.csv`` first, whose folder is that of the run, then the others."""
    others = [] if not given or given is True else list(given) if isinstance(given, Iterable) else [given]
    ours = next((RunLog(logger._prefix) for logger in others if type(logger) is CSVLogger), RunLog())
    return [ours, *(logger for logger in others if type(logger) is not CSVLogger)]


class MetricsFile(ExperimentWriter):
    """Lightning's writer of a ``metrics.csv``, except that it never loses lines that are there already.

    Args:
        log_dir: Folder of the file.
    """

    def read(self) -> str:
        """The content of the file; empty if there is none."""
        path = Path(self.metrics_file_path)
        return path.read_text() if path.exists() else ''

    def restore(self, content: str) -> None:
        """Replaces the file by what :meth:`read` returned in an earlier process."""
        write_text(self.metrics_file_path, content)
        self.metrics_keys = _header(content)

    def _check_log_dir_exists(self) -> None:
        self.metrics_keys = _header(self.read())

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        lines = list(csv.DictReader(self.read().splitlines()))
        with write_atomically(self.metrics_file_path) as temporary, temporary.open('w', newline='') as file:
            writer = csv.DictWriter(file, fieldnames)
            writer.writeheader()
            writer.writerows(lines)


def _header(content: str) -> list[str]:
    return next(csv.reader(content.splitlines()), [])


def history(trainer: L.Trainer) -> dict[str, Any]:
    """All metrics until now, for a checkpoint. All ranks take part.

    Lightning logs what was measured at the end of an epoch after it has saved the checkpoint of that epoch, so a
    process that dies in between would lose these values; they are added here.

    Returns:
        ``text``, the content of ``metrics.csv``; ``row``, the values that are about to be logged; ``step``, their step.
    """
    logger, row = _run_log(trainer), _row_of_epoch(trainer)
    return {'text': logger.experiment.read() if logger and trainer.is_global_zero else '', **row}


def restore_history(trainer: L.Trainer, kept: dict[str, Any]) -> None:
    """Puts ``metrics.csv`` back to where a checkpoint was saved.

    Args:
        trainer: The trainer that resumes.
        kept: What :func:`history` returned.
    """
    logger = _run_log(trainer)
    if logger is None or not trainer.is_global_zero:
        return
    logger.experiment.restore(kept['text'])
    if kept.get('row'):
        for each in trainer.loggers:
            each.log_metrics(kept['row'], kept['step'])
            each.save()


def _row_of_epoch(trainer: L.Trainer) -> dict[str, Any]:
    """What Lightning will log for this epoch when the callbacks are done; empty in the middle of an epoch."""
    if not trainer.training or trainer._logger_connector._first_loop_iter is not None:
        return {}
    metrics = convert_tensors_to_scalars(trainer._logger_connector.metrics['log'])
    return {'row': {**metrics, 'epoch': trainer.current_epoch}, 'step': trainer.global_step - 1} if metrics else {}


def _run_log(trainer: L.Trainer) -> RunLog | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, RunLog)), None)
