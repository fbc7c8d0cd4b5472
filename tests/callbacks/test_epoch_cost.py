from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from callbacks import epoch_cost
from callbacks.epoch_cost import EpochCost
from tests.callbacks.observed import QUIET, ROWS, Answers, Batch, Data, evaluation_set, trainer

pytestmark = QUIET

WAIT, STEP, EVALUATION, LATER = 1.0, 4.0, 100.0, 1000.0  # seconds on the clock below
STEPS = 6


class Clock:
    """A clock that advances only when a test adds to ``now``."""

    def __init__(self) -> None:
        self.now = 17.0

    def __call__(self) -> float:
        return self.now


class Slow(Callback):
    """Advances the clock as a loader, a step, an evaluation and a sweep at the end of an epoch would."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *hook: Any) -> None:
        self.clock.now += WAIT

    def on_after_backward(self, *hook: Any) -> None:
        self.clock.now += STEP

    def on_validation_epoch_end(self, *hook: Any) -> None:
        self.clock.now += EVALUATION

    def on_train_epoch_end(self, *hook: Any) -> None:
        self.clock.now += LATER


def costs(folder: Path, monkeypatch: pytest.MonkeyPatch, evaluates: bool = True, **kwargs: Any) -> dict[str, float]:
    """Logged costs of a run with ``Slow`` first, so that its time at the start of a batch counts as waiting."""
    clock = Clock()
    monkeypatch.setattr(epoch_cost.time, 'perf_counter', clock)
    sets = [evaluation_set('heldout', [0, 1, 2], None)] if evaluates else []
    run = trainer(folder, [Slow(clock), EpochCost()], epochs=2, **kwargs)
    run.fit(Answers([torch.eye(3)]), datamodule=Data(sets))
    return {name: value.item() for name, value in run.callback_metrics.items() if name.startswith('cost/')}


def test_times_each_part_of_an_epoch_separately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert costs(tmp_path, monkeypatch) == pytest.approx(
        {
            'cost/train_s': STEPS * (WAIT + STEP),
            'cost/train_s/unimodal': STEPS * (WAIT + STEP),
            'cost/views': 1.0,
            'cost/evaluation_s': EVALUATION,
            'cost/data_wait': WAIT / (WAIT + STEP),
            'cost/pairs_per_s': ROWS / (STEPS * (WAIT + STEP)),
        }
    )


def test_evaluation_within_an_epoch_is_not_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = costs(tmp_path, monkeypatch, val_check_interval=0.5)
    assert metrics['cost/train_s'] == pytest.approx(STEPS * (WAIT + STEP))
    assert metrics['cost/evaluation_s'] == pytest.approx(2 * EVALUATION)


def test_counts_the_views_of_a_pair_over_steps_with_one_and_steps_with_two(tmp_path: Path) -> None:
    one, two = Batch(torch.arange(10), torch.zeros(10)), Batch(torch.arange(5), torch.zeros(5), torch.zeros(2, 5, 2))
    data = Data()
    data.train_dataloader = lambda: DataLoader([one, two, two], batch_size=None)  # type: ignore[method-assign]
    run = trainer(tmp_path, [EpochCost()], epochs=1)
    run.fit(Answers(), datamodule=data)
    assert run.callback_metrics['cost/views'].item() == pytest.approx(1.5)


def test_logs_no_evaluation_seconds_without_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'cost/evaluation_s' not in costs(tmp_path, monkeypatch, evaluates=False)


def test_real_seconds_are_at_most_those_of_the_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, [EpochCost()], epochs=1)
    before = time.perf_counter()
    run.fit(Answers(), datamodule=Data())
    assert 0 < run.callback_metrics['cost/train_s'].item() < time.perf_counter() - before
    assert 0 <= run.callback_metrics['cost/data_wait'].item() <= 1


def test_evaluation_alone_logs_no_costs(tmp_path: Path) -> None:
    run = trainer(tmp_path, [EpochCost()])
    run.validate(Answers([torch.eye(3)]), Data([evaluation_set('heldout', [0, 1, 2], None)]), verbose=False)
    assert not run.callback_metrics
