from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, TQDMProgressBar

from experiments.progress_bar import NamedProgressBar, set_name, time_left, with_progress_bar


class TestWithProgressBar:
    @pytest.mark.parametrize('given', [None, [], [EarlyStopping('loss')]])
    def test_adds_ours_where_there_is_none(self, given: Any) -> None:
        assert [type(callback) for callback in with_progress_bar(given, True)][:1] == [NamedProgressBar]

    def test_keeps_the_one_that_is_given(self) -> None:
        theirs = TQDMProgressBar()
        assert with_progress_bar(theirs, True) == [theirs]

    def test_leaves_out_any_if_progress_is_not_shown(self) -> None:
        stop = EarlyStopping('loss')
        assert with_progress_bar([TQDMProgressBar(), stop], False) == [stop]


def test_epochs_are_counted_from_1() -> None:
    trainer: Any = SimpleNamespace(current_epoch=0, max_epochs=1, num_training_batches=1, is_global_zero=True)
    bar = NamedProgressBar()
    bar.setup(trainer, trainer, 'fit')
    bar.train_progress_bar = bar.init_train_tqdm()
    bar.on_train_epoch_start(trainer)
    assert bar.train_progress_bar.desc == 'Epoch 1: '
    bar.train_progress_bar.close()


def test_says_what_was_measured_last_and_how_long_the_run_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {'zero_shot/heldout': 0.5854, 'partition/share': 0.34, 'asr/badnet/rate': 0.125, 'asr/badnet/clean': 0.03}
    trainer: Any = SimpleNamespace(
        callback_metrics=metrics, progress_bar_metrics={}, loggers=[], global_step=40, estimated_stepping_batches=100
    )
    bar, clock = NamedProgressBar(), iter([10.0, 130.0])
    monkeypatch.setattr('experiments.progress_bar.time', SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr('lightning.pytorch.callbacks.TQDMProgressBar.on_train_start', lambda *_: None)
    bar.on_train_start(trainer)  # resumed after 40 steps
    trainer.global_step = 60
    assert bar.get_metrics(trainer, trainer) == {
        'left': '0:04:00',
        'accuracy': '0.585',
        'safe': '34%',
        'badnet': '12% (clean 3%)',
    }


def test_says_nothing_of_the_time_of_a_run_without_an_end_or_a_step() -> None:
    assert time_left(10.0, 0, 100) == time_left(10.0, 5, math.inf) == ''


def test_a_set_is_shown_by_its_name() -> None:
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(evaluation_sets=[SimpleNamespace(name='heldout')]))
    assert set_name(trainer, 0) == 'heldout'
    assert set_name(trainer, 1) == '1'
    assert set_name(SimpleNamespace(), 0) == '0'  # type: ignore[arg-type]
