from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from lightning import LightningModule
from lightning.pytorch.loggers import CSVLogger

from experiments.run_folder import DONE, RunFolder, mark_done
from experiments.wandb_run import WandbRun
from tests.experiments.conftest import FakeRun


def trainer(folder: Path, *loggers: Any) -> L.Trainer:
    return L.Trainer(logger=list(loggers) or False, accelerator='cpu', default_root_dir=folder)


class TestCreate:
    def test_two_runs_of_one_name_have_folders_of_their_own(self, tmp_path: Path) -> None:
        for _ in range(2):
            RunFolder().create(trainer(tmp_path, CSVLogger(tmp_path, 'toy')))
        assert {path.name for path in (tmp_path / 'toy').iterdir()} == {'version_0', 'version_1'}

    def test_wandb_goes_into_the_folder_of_the_run(self, tmp_path: Path) -> None:
        csv, wandb = CSVLogger(tmp_path, 'toy'), WandbRun()
        RunFolder().create(trainer(tmp_path, csv, wandb))
        assert wandb.save_dir == csv.log_dir == str(tmp_path / 'toy' / 'version_0')

    def test_a_run_without_a_log_has_no_folder(self, tmp_path: Path) -> None:
        RunFolder().create(trainer(tmp_path))
        assert not list(tmp_path.iterdir())


class TestRemoveFailedStart:
    def test_nothing_is_left_of_a_run_that_has_not_started(self, tmp_path: Path) -> None:
        folder, run = RunFolder(), trainer(tmp_path, CSVLogger(tmp_path, 'toy'))
        folder.create(run)
        (tmp_path / 'toy/version_0/config.yaml').touch()
        folder.remove_failed_start(run)
        assert not list((tmp_path / 'toy').iterdir())

    def test_a_run_that_has_started_is_kept(self, tmp_path: Path) -> None:
        folder, run = RunFolder(), trainer(tmp_path, CSVLogger(tmp_path, 'toy'))
        folder.create(run)
        folder.on_train_start(run, LightningModule())
        folder.remove_failed_start(run)
        assert (tmp_path / 'toy/version_0').is_dir()

    def test_a_folder_that_was_there_before_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / 'toy/mine').mkdir(parents=True)
        (tmp_path / 'toy/mine/notes.txt').touch()
        folder, run = RunFolder(), trainer(tmp_path, CSVLogger(tmp_path, 'toy', version='mine'))
        with pytest.warns(UserWarning, match='exists and is not empty'):
            folder.create(run)
        folder.remove_failed_start(run)
        assert (tmp_path / 'toy/mine/notes.txt').exists()


class TestStart:
    @pytest.mark.parametrize('hook', ['on_train_start', 'on_validation_start', 'on_test_start', 'on_predict_start'])
    def test_wandb_starts_with_the_first_epoch(self, hook: str, tmp_path: Path, fake_wandb: list[FakeRun]) -> None:
        folder, run = RunFolder(), trainer(tmp_path, CSVLogger(tmp_path, 'toy'), WandbRun())
        before = len(fake_wandb)
        folder.create(run)
        run.loggers[1].log_metrics({'loss': 1.0})
        assert len(fake_wandb) == before
        getattr(folder, hook)(run, LightningModule())
        assert [run.logged for run in fake_wandb[before:]] == [[{'loss': 1.0}]]


class TestMarkDone:
    @pytest.mark.parametrize(('finished', 'is_global_zero'), [(True, True), (False, True), (True, False)])
    def test_only_a_finished_run_is_marked_and_only_once(
        self, tmp_path: Path, finished: bool, is_global_zero: bool
    ) -> None:
        run: Any = SimpleNamespace(
            state=SimpleNamespace(finished=finished),
            log_dir=str(tmp_path),
            is_global_zero=is_global_zero,
            current_epoch=3,
            global_step=12,
        )
        mark_done(run)
        assert (tmp_path / DONE).exists() == (finished and is_global_zero)
