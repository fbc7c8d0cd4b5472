from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from datamodules.usage_error import UsageError
from experiments.run_log import RunLog, history, restore_history, with_run_log
from experiments.wandb_run import WandbRun


def log_of(folder: Path) -> RunLog:
    log = RunLog()
    log.use_folder(folder)
    return log


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / 'metrics.csv', newline='') as file:
        return list(csv.DictReader(file))


def at_epoch_end(log: RunLog, **metrics: float) -> Any:
    """A trainer that is about to log metrics of its third epoch."""
    connector = SimpleNamespace(_first_loop_iter=None, metrics={'log': metrics})
    return SimpleNamespace(
        loggers=[log], is_global_zero=True, training=True, current_epoch=2, global_step=12, _logger_connector=connector
    )


class TestRunLog:
    def test_goes_on_with_the_file_of_an_earlier_process(self, tmp_path: Path) -> None:
        for value, names in ((1.0, ['loss']), (2.0, ['loss', 'accuracy'])):
            log = log_of(tmp_path)
            log.log_metrics(dict.fromkeys(names, value), step=int(value))
            log.save()
        assert lines(tmp_path) == [
            {'accuracy': '', 'loss': '1.0', 'step': '1'},
            {'accuracy': '2.0', 'loss': '2.0', 'step': '2'},
        ]

    def test_lightnings_own_would_delete_it(self, tmp_path: Path) -> None:
        log_of(tmp_path).experiment.restore('loss,step\n1.0,1\n')
        with pytest.warns(UserWarning, match='will be deleted'):
            _ = CSVLogger(tmp_path, name='', version='').experiment
        assert not (tmp_path / 'metrics.csv').exists()

    def test_a_kill_while_the_header_is_written_loses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = log_of(tmp_path)
        log.log_metrics({'loss': 1.0}, step=1)
        log.save()
        monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        log.log_metrics({'accuracy': 1.0}, step=2)
        with pytest.raises(KeyboardInterrupt):
            log.save()
        assert lines(tmp_path) == [{'loss': '1.0', 'step': '1'}]

    def test_a_full_disk_is_told_in_a_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log = log_of(tmp_path / 'run')
        log.log_metrics({'loss': 1.0}, step=1)
        (tmp_path / 'run/metrics.csv').symlink_to('/dev/full')
        with pytest.raises(UsageError, match=r'metrics\.csv cannot be written \(No space left'):
            log.save()
        log._experiment.metrics = []


class TestHistory:
    def test_holds_what_lightning_logs_after_the_checkpoint(self, tmp_path: Path) -> None:
        log = log_of(tmp_path)
        log.log_metrics({'loss': 1.0, 'epoch': 2}, step=11)
        log.save()
        kept = history(at_epoch_end(log, share=0.5))
        (tmp_path / 'metrics.csv').write_text('loss,step\n1.0,1\n2.0')  # as a killed process may leave it
        restore_history(at_epoch_end(log_of(tmp_path)), kept)
        assert lines(tmp_path) == [
            {'epoch': '2', 'loss': '1.0', 'share': '', 'step': '11'},
            {'epoch': '2', 'loss': '', 'share': '0.5', 'step': '11'},
        ]

    def test_in_the_middle_of_an_epoch_there_is_no_such_row(self, tmp_path: Path) -> None:
        trainer = at_epoch_end(log_of(tmp_path), share=0.5)
        trainer._logger_connector._first_loop_iter = False
        assert history(trainer) == {'text': ''}

    def test_a_run_without_a_log_has_none(self) -> None:
        trainer: Any = SimpleNamespace(loggers=[], is_global_zero=True, training=False)
        assert history(trainer) == {'text': ''}
        restore_history(trainer, {'text': 'loss\n1\n'})


class TestWithRunLog:
    @pytest.mark.parametrize('given', [None, False, True, []])
    def test_a_run_always_logs_into_its_folder(self, given: Any) -> None:
        (logger,) = with_run_log(given)
        assert isinstance(logger, RunLog)

    def test_a_csv_logger_is_replaced_and_others_come_behind(self, tmp_path: Path) -> None:
        wandb = WandbRun()
        log, other = with_run_log([wandb, CSVLogger(tmp_path, prefix='mine')])
        assert isinstance(log, RunLog) and log._prefix == 'mine' and other is wandb
