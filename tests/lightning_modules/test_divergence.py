from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.zero_shot import ZeroShot
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from lightning_modules.divergence import DivergenceWatch
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer


class FakeTrainer(SimpleNamespace):
    """A trainer at a step; another rank may have seen losses that are not finite."""

    def __init__(self, step: int, others: int = 1) -> None:
        optimizer = SimpleNamespace(param_groups=[{'lr': step / 100}])
        strategy = SimpleNamespace(reduce=lambda finite, reduce_op: finite * others)
        super().__init__(
            global_step=step, current_epoch=step // 4, optimizers=[optimizer], strategy=strategy, log_every_n_steps=3,
            lightning_module=SimpleNamespace(automatic_optimization=True),
        )  # fmt: skip


def watched(*losses: float) -> DivergenceWatch:
    watch = DivergenceWatch()
    for step, loss in enumerate(losses):
        watch.add(torch.tensor(loss), FakeTrainer(step))
    return watch


class TestDivergenceWatch:
    @pytest.mark.parametrize('value', [math.nan, math.inf])
    def test_names_the_first_loss_that_is_not_finite(self, value: float) -> None:
        watch = watched(1, 2, 3, 2, 1, value, math.nan)
        with pytest.raises(UsageError, match=r'at step 5 \(epoch 2, learning rate 0\.05\): lower model\.lr, raise'):
            watch.check_losses(FakeTrainer(6))

    def test_is_due_when_the_logger_waits_for_the_device(self) -> None:
        assert [watched(*[1] * count).is_due(FakeTrainer(0)) for count in (2, 3)] == [False, True]

    def test_finite_losses_are_looked_at_once(self) -> None:
        watch = watched(1, 2)
        watch.check_losses(FakeTrainer(2))
        assert watch.steps == []

    def test_all_ranks_stop_together(self) -> None:
        with pytest.raises(UsageError, match='at step 0 '):
            watched(1).check_losses(FakeTrainer(1, others=0))

    def test_the_last_step_may_break_the_weights(self) -> None:
        with pytest.raises(UsageError, match=r'weights are not finite numbers after step 1 '):
            watched(1, 2).check(FakeTrainer(2), [torch.ones(2), torch.tensor([1, math.inf]), torch.arange(2)])


def model(folder: Path, **kwargs: Any) -> CLIP:
    return CLIP(tiny_architecture(folder), **kwargs)


class TestRun:
    def test_ends_at_its_first_bad_loss_without_a_rate(self, tmp_path: Path) -> None:
        run = trainer(callbacks=[ZeroShot()], max_epochs=1, log_every_n_steps=50)
        with pytest.raises(UsageError, match=r'^training has diverged: .* at step 1 \(epoch 1, learning rate 1e\+30'):
            run.fit(model(tmp_path, lr=1e30, warmup_steps=1), TinyPairs(cache_dir=str(tmp_path / 'cache')))
        assert not any(name.startswith('zero_shot') for name in run.callback_metrics)

    def test_is_not_evaluated_or_saved_with_weights_that_its_last_step_broke(self, tmp_path: Path) -> None:
        broken = model(tmp_path)
        broken.divergence.add(torch.tensor(1.0), FakeTrainer(0))
        broken._trainer = FakeTrainer(1)
        with torch.no_grad():
            broken.towers.logit_scale.fill_(math.nan)
        with pytest.raises(UsageError, match='not finite numbers after step 0'):
            broken.on_validation_start()
        with pytest.raises(UsageError, match='not finite numbers after step 0'):
            broken.on_save_checkpoint({})

    def test_weights_of_a_diverged_run_are_refused(self, tmp_path: Path) -> None:
        broken = model(tmp_path)
        with torch.no_grad():
            broken.towers.text_projection[0] = math.nan
        torch.save({'state_dict': broken.state_dict()}, tmp_path / 'broken.ckpt')
        torch.save(broken.towers.state_dict(), tmp_path / 'broken.pt')
        file = r'holds weights that are not finite numbers \(1 tensors, first (towers\.)?text_projection\)'
        with pytest.raises(UsageError, match=f'^model.init_from {file}'):
            model(tmp_path, init_from=str(tmp_path / 'broken.ckpt'))
        with pytest.raises(UsageError, match=f'^model.pretrained=.*broken.pt. {file}'):
            model(tmp_path, pretrained=str(tmp_path / 'broken.pt'))
        whole = model(tmp_path)
        with pytest.raises(UsageError, match=f'^ckpt_path {file}'):
            whole.on_load_checkpoint({'state_dict': broken.state_dict()})
