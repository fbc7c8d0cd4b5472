from __future__ import annotations

from pathlib import Path

import pytest

from experiments.wandb_run import WandbRun, offline_by_environment
from tests.experiments.conftest import FakeRun


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('WANDB_MODE', raising=False)
    monkeypatch.delenv('WANDB_API_KEY', raising=False)


class TestOfflineByEnvironment:
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

    def test_lies_in_the_folder_of_the_run(self, tmp_path: Path, fake_wandb: list[FakeRun]) -> None:
        logger = WandbRun(name='mine')
        logger.settle(tmp_path)
        assert logger.experiment.settings['dir'] == logger.save_dir == str(tmp_path)
        assert logger.experiment.settings['project'] == 'clipward'

    @pytest.mark.parametrize('name', ['mine', 'mine-d3-t4'])
    def test_its_name_ends_with_the_seeds_once(self, name: str, fake_wandb: list[FakeRun]) -> None:
        logger = WandbRun(name=name)
        logger.add_to_name('d3-t4')
        assert logger.experiment.settings['name'] == 'mine-d3-t4'

    def test_unless_it_was_given_another(self, tmp_path: Path, fake_wandb: list[FakeRun]) -> None:
        logger = WandbRun(save_dir=str(tmp_path))
        logger.settle('elsewhere')
        assert logger.experiment.settings['dir'] == str(tmp_path)

    def test_draws_against_epochs_what_is_measured_once_an_epoch(self, fake_wandb: list[FakeRun]) -> None:
        logger = WandbRun()
        logger.draw_against_epoch()
        assert logger.experiment.metrics['asr/*'] == logger.experiment.metrics['cost/*'] == 'epoch'
