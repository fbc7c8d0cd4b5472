from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger

from experiments.run_folder import DONE, claim, mark_done, vacate
from experiments.wandb_run import WandbRun


def trainer(folder: Path, *loggers: Any) -> L.Trainer:
    return L.Trainer(logger=list(loggers) or False, accelerator='cpu', default_root_dir=folder)


class TestClaim:
    def test_two_runs_of_one_name_have_folders_of_their_own(self, tmp_path: Path) -> None:
        for _ in range(2):
            claim(trainer(tmp_path, CSVLogger(tmp_path, 'toy')))
        assert {path.name for path in (tmp_path / 'toy').iterdir()} == {'version_0', 'version_1'}

    def test_wandb_goes_into_the_folder_of_the_run(self, tmp_path: Path) -> None:
        csv, wandb = CSVLogger(tmp_path, 'toy'), WandbRun()
        claim(trainer(tmp_path, csv, wandb))
        assert wandb.save_dir == csv.log_dir == str(tmp_path / 'toy' / 'version_0')

    def test_a_run_without_a_log_has_no_folder(self, tmp_path: Path) -> None:
        claim(trainer(tmp_path))
        assert not list(tmp_path.iterdir())


class TestVacate:
    def test_leaves_no_folder_where_nothing_was_written(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, CSVLogger(tmp_path, 'toy'))
        claim(run)
        vacate(run)
        assert not list((tmp_path / 'toy').iterdir())

    def test_a_log_of_wandb_alone_goes_with_it_and_is_closed_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[int] = []
        wandb = WandbRun()
        monkeypatch.setattr(wandb, '_experiment', SimpleNamespace(finish=lambda exit_code: closed.append(exit_code)))
        run = trainer(tmp_path, CSVLogger(tmp_path, 'toy'), wandb)
        claim(run)
        (tmp_path / 'toy/version_0/wandb').mkdir()
        vacate(run)
        assert closed == [1] and not list((tmp_path / 'toy').iterdir())

    def test_leaves_what_was_written(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, CSVLogger(tmp_path, 'toy'))
        claim(run)
        (tmp_path / 'toy/version_0/config.yaml').touch()
        vacate(run)
        assert (tmp_path / 'toy/version_0/config.yaml').exists()


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
