from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.attack_success import AttackSuccessRate
from callbacks.figures import Figures
from experiments.run_folder import RunFolder
from experiments.run_log import RunLog
from experiments.run_place import Place
from experiments.tensorboard_run import TensorBoardRun
from tests.callbacks.observed import QUIET, Answers, Data, evaluation_set, trainer

pytest.importorskip('tensorboard')
pytestmark = QUIET


def read(folder: Path) -> Any:
    """What TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / 'tensorboard')).Reload()


def make_logger(folder: Path) -> TensorBoardRun:
    logger = TensorBoardRun()
    logger.use_folder(folder)
    return logger


def test_metrics_and_figures_arrive(tmp_path: Path) -> None:
    log = RunLog()
    log.use_folder(tmp_path / 'run')
    loggers = [log, make_logger(tmp_path / 'run')]
    run = trainer(tmp_path, [AttackSuccessRate(), Figures()], epochs=2, logger=loggers)
    run.fit(Answers([torch.eye(3)]), datamodule=Data([evaluation_set('badnet', [0, 1, 0], [2, 2, 2])]))
    shown = read(tmp_path / 'run')
    assert [event.value for event in shown.Scalars('asr/badnet/rate')] == [pytest.approx(1 / 3)] * 2
    assert {'figures/success', 'figures/poisons'} <= {*shown.Tags()['images']}
    assert shown.Images('figures/success')[0].width > 400


def test_a_resumed_run_is_one_curve(tmp_path: Path) -> None:
    def train(logger: TensorBoardRun, steps: range, value: float) -> None:
        for step in steps:
            logger.log_metrics({'train/loss': value}, step)
        logger.finalize('failed')

    train(make_logger(tmp_path), range(10), 1.0)  # the last checkpoint was saved after 6 steps
    resumed = make_logger(tmp_path)
    resumed.log_hyperparams({'lr': 0.1})  # as Lightning does before it reads the checkpoint
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn='fit'), is_global_zero=True, loggers=[resumed])
    folder = RunFolder()
    folder._resumes, folder.place = True, Place(tmp_path)
    trainer.checkpoint_callback = None
    folder.on_load_checkpoint(trainer, trainer, {'global_step': 6, 'callbacks': {}})
    train(resumed, range(6, 12), 0.5)
    points = [(event.step, event.value) for event in read(tmp_path).Scalars('train/loss')]
    assert points == [*((step, 1.0) for step in range(6)), *((step, 0.5) for step in range(6, 12))]
