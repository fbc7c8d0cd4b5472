from __future__ import annotations

import csv
from pathlib import Path

import pytest

from experiments import cli


@pytest.mark.parametrize(('every', 'measured'), [(2, [1, 2]), (7, [2])])
def test_a_run_is_measured_after_its_last_epoch(every: int, measured: list[int], tmp_path: Path) -> None:
    smaller = ['--data.rows=40', '--data.heldout_rows=24', '--data.batch_size=20', '--data.attacks={}']
    quiet = ['--trainer.logger=false', '--callbacks.figures=null', '--trainer.accelerator=cpu']
    settings = [f'--trainer.default_root_dir={tmp_path}', f'--data.cache_dir={tmp_path}', '--trainer.precision=32-true']
    epochs = ['--trainer.max_epochs=3', f'--trainer.check_val_every_n_epoch={every}']
    cli.main(['fit', '--config=clip_toy.yaml', *smaller, *quiet, *settings, *epochs])
    with open(tmp_path / 'clip_toy/version_0/metrics.csv', newline='') as file:
        assert [int(line['epoch']) for line in csv.DictReader(file) if line['zero_shot/heldout']] == measured
