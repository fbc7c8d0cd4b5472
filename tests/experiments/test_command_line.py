from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks.ledger import read_ledger
from experiments import cli
from tests.experiments.conftest import SMALL, TINY, FakeRun, instantiate, parse

TOY = 'safeclip_toy.yaml'


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> Path:
    """A folder with a copy of ``finished_run``."""
    shutil.copytree(finished_run, tmp_path / 'runs/safeclip_toy/version_0')
    return tmp_path / 'runs'


def config_of(runs: Path) -> list[str]:
    """The settings that the run saved, with another root, since it was copied."""
    return ['--config', str(runs / 'safeclip_toy/version_0/config.yaml'), f'--trainer.default_root_dir={runs}']


def epochs_of(run: Path) -> list[int]:
    """The epoch of each line that Lightning logs after the checkpoint."""
    with open(run / 'metrics.csv', newline='') as file:
        return [int(line['epoch']) for line in csv.DictReader(file) if line['cost/train_s']]


class TestResume:
    def test_goes_on_in_the_folder_of_the_run(self, runs: Path, fake_wandb: list[FakeRun], capsys: Any) -> None:
        run = runs / 'safeclip_toy/version_0'
        (run / 'wandb_id').write_text('mine\n')
        (run / 'ledger.parquet').unlink()
        before = (run / 'metrics.csv').read_text()
        with open(run / 'metrics.csv', 'a') as file:
            file.write('0.5,3')  # a process that was killed in the fourth epoch
        cli.main(['fit', *config_of(runs), '--ckpt_path=last', '--trainer.max_epochs=4'])
        assert [path.name for path in (runs / 'safeclip_toy').iterdir()] == ['version_0']
        assert (run / 'metrics.csv').read_text().startswith(before)
        assert epochs_of(run) == [0, 1, 2, 3]
        assert len(read_ledger(run / 'ledger.parquet')) == 104
        assert json.loads((run / 'DONE').read_text())['epochs'] == 4
        assert yaml.safe_load((run / 'config.yaml').read_text())['ckpt_path'] is None
        assert sorted(path.name for path in (run / 'checkpoints').iterdir()) == ['epoch=3-step=16.ckpt', 'last.ckpt']
        assert fake_wandb[-1].settings['id'] == 'mine'
        assert f'--config {run}/config.yaml --ckpt_path={run}/checkpoints/last.ckpt' in capsys.readouterr().out

    def test_under_another_name_a_run_branches_off_with_its_history_also_without_loggers(self, runs: Path) -> None:
        run, branch = runs / 'safeclip_toy/version_0', runs / 'other/version_0'
        checkpoint = f'--ckpt_path={run}/checkpoints/last.ckpt'
        quick = ['--trainer.max_epochs=4', '--trainer.logger=false', '--callbacks.attack_success=null']
        cli.main(['fit', *config_of(runs), checkpoint, '--name=other', *quick])
        assert epochs_of(branch) == [0, 1, 2, 3] and epochs_of(run) == [0, 1, 2]
        assert json.loads((branch / 'starts.jsonl').read_text())['checkpoint'] == f'{run}/checkpoints/last.ckpt'

    def test_is_automatic_if_a_checkpoint_is_there(self, runs: Path, tmp_path: Path) -> None:
        last = runs / 'safeclip_toy/version_0/checkpoints/last.ckpt'
        assert parse('fit', *config_of(runs), '--ckpt_path=auto').ckpt_path == str(last)
        assert parse('fit', *config_of(runs), '--ckpt_path=auto', '--name=other').ckpt_path is None

    def test_of_a_run_that_was_killed_after_its_last_epoch_ends_it(self, runs: Path, capsys: Any) -> None:
        run = runs / 'safeclip_toy/version_0'
        with open(run / 'metrics.csv') as file:
            lines = file.readlines()
        (run / 'metrics.csv').write_text(''.join(lines[:-1]))  # Lightning logs the last line after the checkpoint
        (run / 'DONE').unlink()
        cli.main(['fit', *config_of(runs), '--ckpt_path=last'])
        assert 'Nothing was left to train' in capsys.readouterr().out
        assert (run / 'metrics.csv').read_text() == ''.join(lines)
        assert (run / 'DONE').exists()


class TestMeasuring:
    def test_leaves_a_folder_that_is_no_training_run_under_the_name_it_is_given(self, runs: Path) -> None:
        checkpoint = f'--ckpt_path={runs}/safeclip_toy/version_0/checkpoints/last.ckpt'
        cli.main(['validate', *config_of(runs), checkpoint, '--name=audit', '--callbacks.attack_success=null'])
        assert [path.name for path in (runs / 'audit').iterdir()] == ['validate_0']
        assert yaml.safe_load((runs / 'audit/validate_0/config.yaml').read_text())['ckpt_path'] == checkpoint[12:]

    def test_of_a_checkpoint_that_is_missing_is_refused(self, tmp_path: Path, capsys: Any) -> None:
        with pytest.raises(SystemExit):
            parse('predict', '--config', TOY, f'--trainer.default_root_dir={tmp_path}', '--ckpt_path=last')
        assert 'error: ckpt_path=last: there is no checkpoint in' in capsys.readouterr().err


def test_a_name_that_is_no_folder_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        parse('fit', '--config', TOY, '--name=null')
    assert capsys.readouterr().err.splitlines()[-1].startswith('error: name')


def test_a_run_without_checkpoints_has_no_callback_that_writes_them() -> None:
    toy = ('fit', '--config', TOY, *SMALL, TINY, '--trainer.logger=false')
    for enabled in (True, False):
        run = instantiate(*toy, f'--trainer.enable_checkpointing={str(enabled).lower()}').trainer
        assert bool(run.checkpoint_callbacks) is enabled
