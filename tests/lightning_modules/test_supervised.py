from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks.zero_shot import ZeroShot
from datamodules.rows.table import UNKNOWN, PairTable
from datamodules.usage_error import UsageError
from lightning_modules.supervised import SupervisedFinetuning
from tests.helpers.tiny import TinyPairs, set_up, tiny_architecture, trainer


class HalfLabeled(TinyPairs):
    """Pairs of which every second one has no label."""

    def load_table(self) -> PairTable:
        table = super().load_table()
        table.label[::2] = UNKNOWN
        return table


def supervised(folder: Path, **kwargs: Any) -> SupervisedFinetuning:
    torch.manual_seed(0)
    return SupervisedFinetuning(architecture=tiny_architecture(folder), **kwargs)


def test_trains_the_image_tower_and_a_classifier_alone(tmp_path: Path) -> None:
    model, data = supervised(tmp_path, lr=1e-2, warmup_steps=0), TinyPairs(cache_dir=str(tmp_path))
    before = {name: value.clone() for name, value in model.towers.state_dict().items()}
    run = trainer(max_epochs=6, callbacks=[ZeroShot()])
    run.fit(model, data)
    changed = {name for name, value in model.towers.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith('visual.') for name in changed)
    assert run.callback_metrics['train/loss'] < np.log(4)  # of four classes, by chance
    assert run.callback_metrics['zero_shot/heldout'] > 0.5


def test_refuses_a_second_view(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'^model\.views has no effect on SupervisedFinetuning'):
        supervised(tmp_path, views=2)


@pytest.mark.parametrize(('evaluate', 'by_head'), [('head', True), ('zero_shot', False)])
def test_measures_by_classifier_or_by_prompts(tmp_path: Path, evaluate: Any, by_head: bool) -> None:
    logits: list[Tensor] = []
    model: Any = supervised(tmp_path, evaluate=evaluate)
    data = TinyPairs(cache_dir=str(tmp_path))
    run = trainer()
    answer = model.validation_step
    model.validation_step = lambda *args: logits.append(answer(*args)['logits'])
    run.validate(model, data, verbose=False)
    assert all(bool((each == 0).all()) == by_head for each in logits) and logits  # the classifier starts at zero


def test_labels_are_those_of_the_classes_that_are_measured(tmp_path: Path) -> None:
    data = set_up(TinyPairs(cache_dir=str(tmp_path)))
    assert data.row_labels().tolist() == data.table.label.tolist()
    assert data.sets_with_these_classes() == [True]


def test_refuses_pairs_without_a_class(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'^16 of the 32 pairs to train on have no class: use labeled images'):
        set_up(HalfLabeled(cache_dir=str(tmp_path))).row_labels()


def test_refuses_a_checkpoint_of_other_classes(tmp_path: Path) -> None:
    model = supervised(tmp_path)
    run = trainer(max_epochs=1)
    run.fit(model, TinyPairs(cache_dir=str(tmp_path)))
    run.save_checkpoint(tmp_path / 'four.ckpt')
    with pytest.raises(UsageError, match='ckpt_path has a classifier of 4 classes, but the data have 5'):
        trainer().validate(
            supervised(tmp_path), TinyPairs(classes=5, cache_dir=str(tmp_path)), ckpt_path=tmp_path / 'four.ckpt'
        )
