from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.wandb_run import WandbRun, offline_by_environment
from tests.experiments.conftest import FakeRun


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('WANDB_CONFIG_DIR', str(tmp_path / 'none'))
    monkeypatch.delenv('WANDB_MODE', raising=False)
    monkeypatch.delenv('WANDB_API_KEY', raising=False)


class TestOfflineByEnvironment:
    @pytest.mark.parametrize('mode', ['disabled', 'DISABLED'])
    def test_disabled_is_not_offline_where_files_are_written(self, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        monkeypatch.setenv('WANDB_MODE', mode)
        assert not offline_by_environment()

    def test_what_wandb_disabled_has_written_counts(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / 'settings').write_text('[default]\nmode = disabled\n')
        monkeypatch.setenv('WANDB_CONFIG_DIR', str(tmp_path))
        assert not offline_by_environment()
        monkeypatch.setenv('WANDB_MODE', 'offline')  # comes first
        assert offline_by_environment()

    def test_without_an_account_the_log_stays_here(self) -> None:
        assert offline_by_environment()

    def test_a_key_means_online(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv('WANDB_API_KEY', 'secret')
        assert not offline_by_environment()

    @pytest.mark.parametrize(('mode', 'offline'), [('online', False), ('offline', True), ('dryrun', True)])
    def test_the_mode_comes_before_the_key(self, monkeypatch: pytest.MonkeyPatch, mode: str, offline: bool) -> None:
        monkeypatch.setenv('WANDB_API_KEY', 'secret')
        monkeypatch.setenv('WANDB_MODE', mode)
        assert offline_by_environment() is offline


class TestWandbRun:
    def test_what_the_file_says_comes_before_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv('WANDB_API_KEY', 'secret')
        assert WandbRun(offline=True)._offline

    def test_the_log_lies_in_the_folder_of_the_run(self, tmp_path: Path, fake_wandb: list[FakeRun]) -> None:
        logger = WandbRun(name='mine')
        logger.use_folder(tmp_path)
        assert logger.experiment.settings['dir'] == logger.save_dir == str(tmp_path)
        assert logger.experiment.settings['project'] == 'clipward'

    @pytest.mark.parametrize('name', [None, 'mine', 'mine-d3-t4'])
    def test_its_name_ends_with_the_seeds_once(self, name: str | None, fake_wandb: list[FakeRun]) -> None:
        logger = WandbRun(name=name)
        logger.use_name('mine' if name is None else 'of the command', 'd3-t4')
        assert logger.experiment.settings['name'] == 'mine-d3-t4'

    def test_a_resumed_run_goes_on_with_its_id(self, tmp_path: Path, fake_wandb: list[FakeRun]) -> None:
        for identity in ('first', None):
            logger = WandbRun(id=identity)
            logger.use_folder(tmp_path)
            logger.start()
            assert fake_wandb[-1].settings['id'] == 'first'

    @pytest.mark.parametrize('mode', ['disabled', 'DISABLED'])  # W&B itself would refuse capitals
    def test_what_is_disabled_stays_so_and_has_no_id(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_wandb: list[FakeRun], mode: str
    ) -> None:
        monkeypatch.setenv('WANDB_MODE', mode)
        logger = WandbRun()
        logger.use_folder(tmp_path)
        logger.start()
        assert os.environ['WANDB_MODE'] == 'disabled'  # Lightning's logger would change it to `dryrun`
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_was_asked_for_is_kept(self, tmp_path: Path, fake_wandb: list[FakeRun]) -> None:
        logger = WandbRun(save_dir=str(tmp_path))
        logger.use_folder(tmp_path / 'elsewhere')
        assert logger.experiment.settings['dir'] == str(tmp_path)

    def test_further_arguments_reach_wandb(self, fake_wandb: list[FakeRun]) -> None:
        settings = WandbRun(tags=['a'], group='b', init={'job_type': 'c'}).experiment.settings
        assert (settings['tags'], settings['group'], settings['job_type']) == (['a'], 'b', 'c')

    def test_what_is_measured_once_an_epoch_is_drawn_against_epochs(self, fake_wandb: list[FakeRun]) -> None:
        metrics = WandbRun().experiment.metrics
        assert metrics['asr/*'] == metrics['cost/*'] == 'epoch'


class TestStart:
    def test_asking_for_the_run_does_not_start_it(self, fake_wandb: list[FakeRun]) -> None:
        before = len(fake_wandb)
        _ = WandbRun().experiment  # as Lightning does before it reads the data
        assert len(fake_wandb) == before

    def test_logging_starts_it(self, fake_wandb: list[FakeRun]) -> None:
        before = len(fake_wandb)
        WandbRun().log_metrics({'loss': 1.0})
        assert [run.logged for run in fake_wandb[before:]] == [[{'loss': 1.0}]]

    def test_what_is_logged_before_is_kept_until_then(self, fake_wandb: list[FakeRun]) -> None:
        logger, before = WandbRun(), len(fake_wandb)
        logger.wait_for_start()
        logger.log_hyperparams({'lr': 0.1})
        logger.log_metrics({'loss': 1.0})
        assert len(fake_wandb) == before
        logger.start()
        assert fake_wandb[-1].settings['config'] == {'lr': 0.1} and fake_wandb[-1].logged == [{'loss': 1.0}]

    def test_happens_once(self, fake_wandb: list[FakeRun]) -> None:
        logger, before = WandbRun(), len(fake_wandb)
        logger.start()
        logger.start()
        assert len(fake_wandb) == before + 1
