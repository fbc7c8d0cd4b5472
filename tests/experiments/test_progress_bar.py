from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, TQDMProgressBar

from experiments.progress_bar import NamedProgressBar, set_name, with_progress_bar


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


def test_a_set_is_shown_by_its_name() -> None:
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(evaluation_sets=[SimpleNamespace(name='heldout')]))
    assert set_name(trainer, 0) == 'heldout'
    assert set_name(trainer, 1) == '1'
    assert set_name(SimpleNamespace(), 0) == '0'  # type: ignore[arg-type]
