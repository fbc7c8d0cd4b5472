from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from callbacks.attack_success import AttackSuccessRate
from callbacks.ledger import ScoreLedger
from experiments.run_log import RunLog
from experiments.wandb_files import POISONS, SUSPECTS, WandbFiles
from experiments.wandb_run import WandbRun
from tests.callbacks.observed import QUIET, ROWS, Answers, Data, MakeSplits, evaluation_set, trainer
from tests.experiments.conftest import FakeRun

pytestmark = QUIET


def fit(folder: Path, logger: WandbRun) -> L.Trainer:
    """Two epochs, the second of which ends with a split that is least sure of the rows 59, 58 and so on."""
    logger.use_folder(folder)
    data = Data([evaluation_set('badnet', [0, 1, 0], [2, 2, 2])])
    data.manifest.save(folder / 'manifest.parquet')
    split = MakeSplits(torch.linspace(0.5, -0.5, ROWS), 30)
    log = RunLog()
    log.use_folder(folder)
    run = trainer(folder, [AttackSuccessRate(), split, ScoreLedger(), WandbFiles()], epochs=2, logger=[log, logger])
    run.fit(Answers([torch.eye(3)]), datamodule=data)
    return run


class TestTables:
    def tables(self, run: FakeRun) -> dict[str, Any]:
        logged = (item for values in run.logged for item in values.items())
        return {name: table for name, table in logged if name in ('poisons', 'suspects')}

    def test_show_poisons_of_each_attack_and_the_least_similar_pairs(
        self, tmp_path: Path, fake_wandb: list[FakeRun]
    ) -> None:
        fit(tmp_path, WandbRun())
        poisons, suspects = self.tables(fake_wandb[-1]).values()
        assert (poisons.columns, suspects.columns) == ([*POISONS], [*SUSPECTS])
        assert [row[0] for row in poisons.data] == ['badnet'] * 8 + ['targeted'] * 4
        rows = [dict(zip(SUSPECTS, row, strict=True)) for row in suspects.data]
        assert [row['row'] for row in rows] == [*range(59, 27, -1)]
        assert [row['attack'] for row in rows[7:13]] == ['', 'targeted', 'targeted', 'targeted', 'targeted', 'badnet']
        assert rows[0]['side'] == 'safe' and rows[0]['picture'].image.size == (8, 8)

    def test_have_the_manifest_and_the_ledger_beside_them(self, tmp_path: Path, fake_wandb: list[FakeRun]) -> None:
        fit(tmp_path, WandbRun())
        artifacts = {artifact.type: [*artifact.manifest.entries] for artifact in fake_wandb[-1].artifacts}
        assert artifacts == {'manifest': ['manifest.parquet'], 'ledger': ['ledger.parquet']}

    def test_stay_here_if_data_is_not_to_be_logged(self, tmp_path: Path, fake_wandb: list[FakeRun]) -> None:
        fit(tmp_path, WandbRun(log_data=False))
        assert not self.tables(fake_wandb[-1]) and not fake_wandb[-1].artifacts


def read_offline(folder: Path) -> list[dict[str, Any]]:
    """Records of an offline run, as W&B's own reader prints them."""
    command = [sys.executable, '-m', 'wandb', 'leet', 'inspect', '--json', str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if 'No such command' in done.stderr or 'unexpected' in done.stderr:
        pytest.skip('this release of wandb has no reader of offline runs')
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B itself, offline, with the group and tags of a grid."""
    from wandb.sdk.wandb_init import init

    monkeypatch.setattr('wandb.init', init)  # other tests replace it
    monkeypatch.delenv('WANDB_API_KEY', raising=False)
    for name, value in {
        'MODE': 'offline',
        'RUN_GROUP': 'cifar10',
        'TAGS': 'clip,four',
        'DATA_DIR': str(tmp_path / 'home'),
        'CACHE_DIR': str(tmp_path / 'home'),
    }.items():
        monkeypatch.setenv(f'WANDB_{name}', value)


def test_an_offline_run_holds_what_a_dashboard_shows(tmp_path: Path, offline: None) -> None:
    (tmp_path / 'run').mkdir()
    logger = WandbRun(name='mine')
    fit(tmp_path / 'run', logger)
    logger.experiment.finish()
    records = read_offline(tmp_path / 'run' / 'wandb')
    (run,) = (record['run'] for record in records if record['type'] == 'run')
    assert (run['display_name'], run['run_group'], run['tags']) == ('mine', 'cifar10', ['clip', 'four'])
    history = [record['history']['item'] for record in records if record['type'] == 'history']
    rates = [(item['epoch'], item['asr/badnet/rate']) for item in history if 'asr/badnet/rate' in item]
    assert rates == [(0, pytest.approx(1 / 3)), (1, pytest.approx(1 / 3))]
    metrics = [record['metric'] for record in records if record['type'] == 'metric']
    assert {'glob_name': 'asr/*', 'step_metric': 'epoch'}.items() <= next(m for m in metrics if 'asr' in str(m)).items()
    names = sorted(record['artifact']['name'] for record in records if record['type'] == 'artifact')
    run_id = run['run_id']
    assert names == [f'ledger-{run_id}', f'manifest-{run_id}', f'run-{run_id}-poisons', f'run-{run_id}-suspects']
