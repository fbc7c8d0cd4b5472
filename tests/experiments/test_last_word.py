from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.rows.partition import DROPPED, RISKY, SAFE, Partition
from experiments.last_word import how_to_resume, last_word, safe_side, warn_of_unfinished
from experiments.measurements import describe_measurements

MEASURED = {
    'zero_shot/heldout': 0.812,
    'asr/badnet/rate': 0.25,
    'asr/badnet/clean': 0.03,
    'train/loss': 1.0,
}


def test_says_what_was_measured_where_it_is_and_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / 'checkpoints').mkdir()
    for name in ('checkpoints/last.ckpt', 'metrics.csv'):
        (tmp_path / name).touch()
    metrics = {name: torch.tensor(value) for name, value in MEASURED.items()}
    trainer: Any = SimpleNamespace(callback_metrics=metrics, current_epoch=3, loggers=[], should_stop=False)
    said = last_word(trainer, tmp_path)
    for part in ('3 epochs', '0.812 on heldout', 'badnet', '25.0% success, 3.0% on clean'):
        assert part in said
    assert f'{tmp_path}/checkpoints/last.ckpt' in said and 'ledger' not in said
    checkpoint = tmp_path / 'checkpoints/last.ckpt'  # by then, `last` may be of a newer run of the name
    assert f'--config {tmp_path}/config.yaml --ckpt_path={checkpoint} --trainer.max_epochs=13' in said
    checkpoint.unlink()  # as with trainer.enable_checkpointing=false
    assert 'go on' not in last_word(trainer, tmp_path)


def test_says_what_was_measured_on_features(tmp_path: Path) -> None:
    through_probe = {'probe/heldout': 0.9, 'asr_probe/badnet/rate': 0.5, 'asr_probe/badnet/clean': 0.01}
    metrics = {name: torch.tensor(value) for name, value in (MEASURED | through_probe).items()}
    trainer: Any = SimpleNamespace(callback_metrics=metrics, current_epoch=3, loggers=[], should_stop=False)
    lines = last_word(trainer, tmp_path).splitlines()
    assert '  linear probe 0.900 on heldout' in lines
    attack = lines.index('  badnet       25.0% success, 3.0% on clean pictures')
    assert lines[attack + 1].strip() == '50.0% success, 1.0% on clean pictures, through the linear probe'


def test_says_what_was_found_by_retrieval(tmp_path: Path) -> None:
    attack = {'asr_retrieval/badnet/rate': 0.4, 'asr_retrieval/badnet/clean': 0.02}
    found = {f'retrieval/heldout/{way}_{name}': x for way, x in (('i2t', 0.5), ('t2i', 0.3)) for name in ('r10', 'r1')}
    chance = {f'retrieval/heldout/{way}_r10_chance': 0.1 for way in ('i2t', 't2i')}
    metrics = {name: torch.tensor(value) for name, value in (MEASURED | attack | found | chance).items()}
    trainer: Any = SimpleNamespace(callback_metrics=metrics, current_epoch=3, loggers=[], should_stop=False)
    said = last_word(trainer, tmp_path)
    assert 'R@10 50.0% from picture to caption (by chance 10.0%), 30.0% from caption to picture (by' in said
    assert '40.0% success, 2.0% on clean pictures, through retrieval' in said


def test_says_whether_the_splits_could_be_trusted(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(callback_metrics={}, current_epoch=8, loggers=[], should_stop=True, max_epochs=30)
    names = 'epoch,partition/trusted,partition/null_leak,canary/evident_leak'
    lines = [names, '5,1.0,0.02,', '6,,,', '7,1.0,0.04,0.05']
    (tmp_path / 'metrics.csv').write_text('\n'.join(lines))
    assert 'all 2 splits; passed at most: 4.0% of shuffled pairs, 5.0% of two canaries, evidently' in last_word(
        trainer, tmp_path
    )
    (tmp_path / 'metrics.csv').write_text('\n'.join([*lines, '8,0.0,0.3,nan']))
    said = last_word(trainer, tmp_path)
    assert '1 of 3 splits could not be trusted, first that after epoch 9' in said
    assert said.startswith('Stopped after 8 epochs') and 'go on' not in said
    (tmp_path / 'metrics.csv').write_text('\n'.join([lines[0], '5,0.0,nan,nan', *lines[1:]]))  # nothing to compare
    assert 'passed at most: 4.0% of shuffled pairs, 5.0% of two canaries, evidently' in last_word(trainer, tmp_path)


def test_counts_canaries_apart_from_the_pairs_of_the_safe_side(tmp_path: Path) -> None:
    partition = Partition(9, 'x')
    partition.side = torch.tensor([SAFE, SAFE, SAFE, RISKY, DROPPED, SAFE, RISKY, RISKY, RISKY], dtype=torch.int8)
    canaries = {'patch': np.arange(5, 7), 'copies': np.arange(7, 9)}
    trainer: Any = SimpleNamespace(
        callback_metrics={'partition/share': torch.tensor(0.5)},
        datamodule=SimpleNamespace(partition=partition, canary_rows=lambda: canaries),
        current_epoch=3,
        loggers=[],
        should_stop=False,
    )
    assert 'safe side    75.0% of the 4 pairs, and 1 of the 4 canaries' in last_word(trainer, tmp_path)
    canaries.clear()
    assert safe_side(trainer) == '50.0% of the 8 pairs'


def test_says_where_success_is_low_because_the_class_is_never_said(tmp_path: Path) -> None:
    metrics = {**MEASURED, 'asr/badnet/recall': 0.02, 'asr/badnet/recall_n': 50.0}
    trainer: Any = SimpleNamespace(callback_metrics=metrics, current_epoch=3, loggers=[], should_stop=False)
    reason = 'the target class is recognized in 2.0% of its 50 clean pictures, so low success proves little'
    assert reason in last_word(trainer, tmp_path) and f'badnet: {reason}.' in describe_measurements(metrics)
    metrics['asr/badnet/recall'] = 0.9
    assert 'proves little' not in last_word(trainer, tmp_path) + describe_measurements(metrics)


def test_a_run_that_is_ended_before_its_end_says_how_to_go_on(tmp_path: Path) -> None:
    assert how_to_resume(tmp_path) == how_to_resume(None) == ''
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints/last.ckpt').touch()
    command = f'clipward fit --config {tmp_path}/config.yaml --ckpt_path={tmp_path}/checkpoints/last.ckpt'
    assert how_to_resume(tmp_path) == f'To resume: {command}'
    (tmp_path / 'DONE').touch()
    assert how_to_resume(tmp_path) == ''


def test_of_a_checkpoint_whose_run_has_not_ended_it_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = tmp_path / 'version_0/checkpoints/last.ckpt'
    checkpoint.parent.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        warn_of_unfinished(checkpoint)  # perhaps not of a run of ours
        assert not caplog.records
        (tmp_path / 'version_0/config.yaml').touch()
        warn_of_unfinished(checkpoint)
        (tmp_path / 'version_0/DONE').touch()
        warn_of_unfinished(checkpoint)
    (record,) = caplog.records
    assert 'has not come to its end' in record.getMessage()
