from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerStatus

from datamodules.usage_error import UsageError
from experiments.run_folder import DONE, STARTS, RunFolder, _move_paths
from experiments.run_log import with_run_log
from experiments.run_place import Place
from experiments.wandb_run import WandbRun
from tests.experiments.conftest import FakeRun


@pytest.fixture
def folder() -> Iterator[RunFolder]:
    folder = RunFolder()
    yield folder
    folder.close()


def trainer(folder: Path, *loggers: Any) -> L.Trainer:
    return L.Trainer(logger=with_run_log(loggers), accelerator='cpu', default_root_dir=folder)


class TestCreate:
    def test_loggers_use_the_folder_of_the_run(self, tmp_path: Path, folder: RunFolder) -> None:
        wandb = WandbRun()
        run = trainer(tmp_path, wandb)
        folder.create(run, Place(tmp_path / 'toy'), 'd1-t2')
        assert wandb.save_dir == run.log_dir == str(tmp_path / 'toy/version_0')
        assert wandb._wandb_init['name'] == 'toy-d1-t2'

    def test_a_resumed_run_goes_on_in_its_folder(self, tmp_path: Path, folder: RunFolder) -> None:
        last = tmp_path / 'toy/version_3/checkpoints/last.ckpt'
        last.parent.mkdir(parents=True)
        folder.create(trainer(tmp_path), Place(tmp_path / 'toy', checkpoint=last))
        assert folder.path == tmp_path / 'toy/version_3'

    def test_a_measured_one_does_not(self, tmp_path: Path, folder: RunFolder) -> None:
        last = tmp_path / 'toy/version_3/checkpoints/last.ckpt'
        last.parent.mkdir(parents=True)
        folder.create(trainer(tmp_path), Place(tmp_path / 'toy', 'validate', checkpoint=last))
        assert folder.path == tmp_path / 'toy/validate_0'

    def test_a_root_that_is_a_file_is_refused(self, tmp_path: Path, folder: RunFolder) -> None:
        (tmp_path / 'file').touch()
        with pytest.raises(UsageError, match=r'^trainer\.default_root_dir or name: .*\(Not a directory\)'):
            folder.create(trainer(tmp_path), Place(tmp_path / 'file/toy'))


class TestClose:
    def test_nothing_is_left_of_a_run_that_has_not_started(self, tmp_path: Path, folder: RunFolder) -> None:
        folder.create(trainer(tmp_path), Place(tmp_path / 'runs/toy'))
        folder.close()
        assert not list(tmp_path.iterdir())

    def test_but_the_folders_that_were_there_before(self, tmp_path: Path, folder: RunFolder) -> None:
        (tmp_path / 'runs').mkdir()
        folder.create(trainer(tmp_path), Place(tmp_path / 'runs/toy'))
        folder.close()
        assert not list((tmp_path / 'runs').iterdir())

    def test_a_run_that_has_started_is_kept(self, tmp_path: Path, folder: RunFolder) -> None:
        run = trainer(tmp_path)
        folder.create(run, Place(tmp_path / 'toy'))
        folder.on_train_epoch_start(run, LightningModule())
        folder.close()
        assert (tmp_path / 'toy/version_0').is_dir()


class TestStart:
    @pytest.mark.parametrize(
        'hook', ['on_train_epoch_start', 'on_validation_start', 'on_test_start', 'on_predict_start']
    )
    def test_wandb_starts_with_the_first_epoch(
        self, hook: str, tmp_path: Path, folder: RunFolder, fake_wandb: list[FakeRun]
    ) -> None:
        run = trainer(tmp_path, WandbRun())
        before = len(fake_wandb)
        folder.create(run, Place(tmp_path / 'toy'))
        run.loggers[1].log_metrics({'loss': 1.0})
        assert len(fake_wandb) == before
        getattr(folder, hook)(run, LightningModule())
        assert [run.logged for run in fake_wandb[before:]] == [[{'loss': 1.0}]]

    def test_what_a_killed_process_left_is_removed(self, tmp_path: Path, folder: RunFolder) -> None:
        last = tmp_path / 'toy/version_0/checkpoints/last.ckpt'
        left = [last.parent.parent / DONE, last.with_name('last.ckpt.0123-45-67.tmp')]
        for path in [last, *left]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        run = trainer(tmp_path)
        folder.create(run, Place(tmp_path / 'toy', checkpoint=last))
        assert all(path.exists() for path in left)
        folder.on_train_epoch_start(run, LightningModule())
        assert last.exists() and not any(path.exists() for path in left)

    def test_each_is_noted(self, tmp_path: Path) -> None:
        last = tmp_path / 'toy/version_0/checkpoints/last.ckpt'
        for checkpoint in (None, last):
            folder, run = RunFolder(), trainer(tmp_path)
            folder.create(run, Place(tmp_path / 'toy', checkpoint=checkpoint))
            folder.on_train_epoch_start(run, LightningModule())
            folder.close()
            last.parent.mkdir(exist_ok=True)
        starts = [json.loads(line) for line in (last.parents[1] / STARTS).read_text().splitlines()]
        assert [start['checkpoint'] for start in starts] == [None, str(last)]


class TestMarkDone:
    @pytest.mark.parametrize('status', [TrainerStatus.FINISHED, TrainerStatus.INTERRUPTED])
    def test_only_a_finished_run_is_marked(self, tmp_path: Path, folder: RunFolder, status: TrainerStatus) -> None:
        run = trainer(tmp_path)
        folder.create(run, Place(tmp_path / 'toy'))
        folder.on_train_epoch_start(run, LightningModule())
        run.state.status = status
        marked = folder.mark_done(run)
        assert (marked is not None) == (tmp_path / 'toy/version_0' / DONE).exists() == run.state.finished

    @pytest.mark.parametrize(('epochs', 'ends'), [(30, False), (3, True)])
    def test_not_if_nothing_was_left_to_train_of_fewer_epochs_than_planned(
        self, tmp_path: Path, folder: RunFolder, epochs: int, ends: bool
    ) -> None:
        version, run = tmp_path / 'toy/version_0', trainer(tmp_path)
        version.mkdir(parents=True)
        (version / 'config.yaml').write_text(f'trainer: {{max_epochs: {epochs}}}')
        run.fit_loop.max_epochs, run.state.status = 3, TrainerStatus.FINISHED
        folder.create(run, Place(tmp_path / 'toy', checkpoint=version / 'checkpoints/last.ckpt'))
        assert (folder.mark_done(run) is not None) == ends

    def test_only_by_the_process_that_has_the_folder(self, tmp_path: Path) -> None:
        assert not RunFolder().mark_done(trainer(tmp_path))


def test_the_state_of_a_moved_run_names_its_files_where_they_are_now() -> None:
    paths = {name: f'/old/{name}' for name in ('best_model_path', 'last_model_path')}
    state = {'best_k_models': {'/old/a': 1}, 'dirpath': '/old', 'kth_best_model_path': '', **paths}
    _move_paths([state, {'other': 1}], '/new')
    moved = {name: f'/new/{name}' for name in paths}
    assert state == {'best_k_models': {'/new/a': 1}, 'dirpath': '/new', 'kth_best_model_path': '', **moved}
