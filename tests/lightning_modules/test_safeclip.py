from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.repartition import SafeRiskyRepartition
from datamodules.pictures.augment import SimCLRViews
from datamodules.rows.partition import RISKY, SAFE
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from lightning_modules.neighbor_pool import NeighborPool, auto_pool_size
from lightning_modules.safeclip import SafeCLIP
from lightning_modules.schedules import Schedule
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer, unit_rows

POOL = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
VIEWS = torch.tensor([[[0.8, 0.6], [0.6, 0.8]], [[0.6, 0.8], [0, 1]]])  # (2, b, D); the same as in test_losses.py


class Watch(Callback):
    """Records every training step."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []  # epoch, number of safe pairs, views
        self.rates: list[float] = []
        self.drawn: list[list[int]] = []  # rows of the batch
        self.filled: list[int] = []  # embeddings in the image pool

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert outputs['loss'].isfinite()
        self.steps.append((trainer.current_epoch, batch.cross_modal, len(batch.image)))
        self.drawn.append(batch.row.tolist())
        if pools := getattr(pl_module, 'pools', None):
            self.filled.append(int(pools['image'].filled))

    def rows(self, first: int, stop: int | None = None) -> list[int]:
        """Rows drawn in a range of steps."""
        return [row for batch in self.drawn[first:stop] for row in batch]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]['lr'])


class HalfRisky(Callback):
    """Replaces a split: the first half of the pairs is risky."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        side = trainer.datamodule.partition.side
        side[: len(side) // 2] = RISKY


def safeclip(folder: Path, **kwargs: Any) -> SafeCLIP:
    torch.manual_seed(0)
    settings = {'architecture': tiny_architecture(folder), 'unimodal_epochs': 1, 'slow_epochs': 1}
    return SafeCLIP(**{**settings, **kwargs})


def pairs(folder: Path, **kwargs: Any) -> TinyPairs:
    return TinyPairs(cache_dir=str(folder / 'cache'), **kwargs)


def fit(
    model: CLIP, data: TinyPairs, *callbacks: Callback, resume: Path | None = None, **kwargs: Any
) -> tuple[L.Trainer, Watch]:
    watch = Watch()
    run = trainer(callbacks=[watch, *callbacks], **{'max_epochs': 4, **kwargs})
    run.fit(model, data, ckpt_path=resume)
    return run, watch


@pytest.fixture(scope='module')
def half_risky_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[L.Trainer, Watch]:
    """A run of one unimodal, one slow and two mixed epochs; half of its pairs are risky from the second epoch on."""
    folder = tmp_path_factory.mktemp('half_risky_run')
    return fit(safeclip(folder, pool_size=50), pairs(folder), HalfRisky())


def prepare_for_losses(model: SafeCLIP, pool: Tensor | None = None) -> SafeCLIP:
    """Prepares a model for calls of its losses: one process, a logit scale of 1, and the given rows in its pools."""
    model._trainer = SimpleNamespace(world_size=1)
    with torch.no_grad():
        model.towers.logit_scale.zero_()
    if pool is not None:
        for name in ('image', 'text'):
            model.pools[name] = NeighborPool(len(pool), pool.shape[1])
            model.pools[name].enqueue(pool)
    return model


def weights(model: CLIP) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class TestPlan:
    def test_phases_follow_each_other(self, tmp_path: Path) -> None:
        model = safeclip(tmp_path, unimodal_epochs=5, slow_epochs=1)
        assert [model.phase(epoch) for epoch in range(48)] == ['unimodal'] * 5 + ['slow'] + ['mixed'] * 42

    def test_each_phase_has_its_sides(self, tmp_path: Path) -> None:
        model = safeclip(tmp_path)
        assert [model.sides(epoch) for epoch in range(3)] == [
            {'trusted': 1, 'within_modal': 2},
            {'cross_modal': 1},
            {'cross_modal': 1, 'within_modal': 2},
        ]
        two = safeclip(tmp_path, views=2)
        assert [two.sides(epoch) for epoch in range(3)] == [
            {'trusted': 2, 'within_modal': 2},
            {'cross_modal': 2},
            {'cross_modal': 2, 'within_modal': 2},
        ]

    def test_risky_pairs_can_be_left_out(self, tmp_path: Path) -> None:
        model = safeclip(tmp_path, in_modal=False)
        assert [model.sides(epoch) for epoch in range(3)] == [
            {'trusted': 1, 'within_modal': 2},
            {'cross_modal': 1},
            {'cross_modal': 1, 'within_modal': 0},
        ]

    @pytest.mark.parametrize(('unimodal', 'slow'), [(0, 1), (1, 0), (0, 0), (2, 2)])
    def test_phases_can_be_skipped(self, tmp_path: Path, unimodal: int, slow: int) -> None:
        model = safeclip(tmp_path, unimodal_epochs=unimodal, slow_epochs=slow)
        phases = [model.phase(epoch) for epoch in range(6)]
        assert phases == ['unimodal'] * unimodal + ['slow'] * slow + ['mixed'] * (6 - unimodal - slow)

    def test_the_slow_phase_can_be_extended(self, tmp_path: Path) -> None:
        model = safeclip(tmp_path, extra_slow_epochs=1)
        assert [model.phase(epoch) for epoch in range(4)] == ['unimodal', 'slow', 'mixed', 'mixed']
        assert model.extend_slow_phase() and not model.extend_slow_phase()
        assert [model.phase(epoch) for epoch in range(4)] == ['unimodal', 'slow', 'slow', 'mixed']
        assert model.schedule(10, 4)(25) == model.schedule(10, 4)(15)

    def test_the_slow_rate_holds_from_the_first_step_of_an_extension(self, tmp_path: Path) -> None:
        class Extend(Callback):
            def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
                if trainer.current_epoch:
                    pl_module.extend_slow_phase()

        rates = fit(safeclip(tmp_path, extra_slow_epochs=1), pairs(tmp_path), Extend())[1].rates
        steps = len(rates) // 4
        assert {*rates[steps : 3 * steps]} == {rates[steps]} and rates[3 * steps] != rates[steps]

    def test_an_extended_phase_is_resumed(self, tmp_path: Path) -> None:
        model, resumed = (safeclip(tmp_path, extra_slow_epochs=1) for _ in range(2))
        model.extend_slow_phase()
        model.unimodal_from = 3
        run = fit(model, pairs(tmp_path), max_epochs=1)[0]
        run.save_checkpoint(tmp_path / 'one.ckpt')
        fit(resumed, pairs(tmp_path), max_epochs=1, resume=tmp_path / 'one.ckpt')
        assert [resumed.phase(epoch) for epoch in range(4)] == ['unimodal', 'slow', 'slow', 'unimodal']

    def test_refuses_a_negative_number_of_epochs(self) -> None:
        with pytest.raises(ValueError, match=r'model\.unimodal_epochs must be at least 0, got -1'):
            SafeCLIP(unimodal_epochs=-1)

    @pytest.mark.parametrize(('slow_lr', 'factor'), [('auto', 0.03096), (5e-6, 0.01), (1e-4, 0.2)])
    def test_learning_rate_of_the_slow_phase(self, tmp_path: Path, slow_lr: Any, factor: float) -> None:
        model = safeclip(tmp_path, unimodal_epochs=5, slow_lr=slow_lr)
        plan = model.schedule(steps_per_epoch=323, epochs=48)  # COCO in batches of 256
        assert (plan.before, plan.slow, plan.after) == (5 * 323, 323, 42 * 323)
        assert plan(5 * 323) == pytest.approx(factor, rel=1e-3)

    @pytest.mark.parametrize(
        ('epochs', 'expected'), [(3, (30, 10, 0)), (5, (50, 10, 0)), (6, (50, 10, 0)), (8, (50, 10, 20))]
    )
    def test_a_run_may_end_before_the_mixed_phase(
        self, tmp_path: Path, epochs: int, expected: tuple[int, int, int]
    ) -> None:
        plan = safeclip(tmp_path, unimodal_epochs=5).schedule(10, epochs)
        assert (plan.before, plan.slow, plan.after) == expected

    @pytest.mark.parametrize('plan', ['global', 'restart_at_mixed'])
    def test_learning_rate_follows_the_schedule_in_a_run(self, tmp_path: Path, plan: Any) -> None:
        model = safeclip(tmp_path, lr=1e-3, slow_lr=1e-5, warmup_steps=2, lr_plan=plan)
        _, watch = fit(model, pairs(tmp_path))
        schedule = Schedule(4, 4, 8, 0.01, 2, plan)
        assert watch.rates == pytest.approx([1e-3 * schedule(step) for step in range(16)])


class TestPools:
    @pytest.mark.parametrize(
        ('rows', 'batch_size', 'size'),
        [(1_000_000, 512, 20_000), (3_000_000, 512, 60_000), (12_000_000, 512, 65_536), (82_000, 512, 2048)],
    )
    def test_hold_two_percent_of_the_pairs_or_four_batches(self, rows: int, batch_size: int, size: int) -> None:
        assert auto_pool_size(rows, batch_size) == size

    @pytest.mark.parametrize(('pool_size', 'rows'), [('auto', 32), (8, 8), (100, 100)])
    def test_have_the_requested_size(self, tmp_path: Path, pool_size: Any, rows: int) -> None:
        model = safeclip(tmp_path, pool_size=pool_size)
        fit(model, pairs(tmp_path), max_epochs=1)
        assert {name: tuple(pool.rows.shape) for name, pool in model.pools.items()} == {
            'image': (rows, model.width), 'text': (rows, model.width),
        }  # fmt: skip

    def test_must_not_be_smaller_than_a_batch(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'model.pool_size=7 is smaller than a batch of 8.*or auto'):
            fit(safeclip(tmp_path, pool_size=7), pairs(tmp_path))

    def test_need_data_with_row_numbers(self, tmp_path: Path) -> None:
        model = safeclip(tmp_path)
        model._trainer = trainer()
        with pytest.raises(ValueError, match=r'needs a row number for each pair, which a stream does not have'):
            model.setup('fit')
        model.setup('validate')

    def test_can_be_turned_off(self, tmp_path: Path) -> None:
        model = safeclip(tmp_path, pool_size=0)
        _, watch = fit(model, pairs(tmp_path), HalfRisky())
        assert not model.pools
        assert len(watch.steps) == 16

    def test_are_filled_by_steps_on_risky_pairs_only(self, half_risky_run: tuple[L.Trainer, Watch]) -> None:
        _, watch = half_risky_run
        risky = np.cumsum([8 - safe for _, safe, _ in watch.steps])
        assert watch.filled == np.minimum(risky, 50).tolist()
        assert watch.filled[4:8] == [32] * 4  # the slow epoch

    def test_are_not_parameters(self, tmp_path: Path) -> None:
        model = prepare_for_losses(safeclip(tmp_path), POOL)
        assert not any(name.startswith('pools') for name, _ in model.named_parameters())


class TestUnimodalLoss:
    @pytest.mark.parametrize(
        ('direction', 'loss'), [('view_rows', 0.5557002784), ('nn_rows', 0.5178134099), ('symmetric', 0.5367568442)]
    )
    def test_first_role_uses_neighbors_of_the_first_view(self, tmp_path: Path, direction: Any, loss: float) -> None:
        model = prepare_for_losses(safeclip(tmp_path, nn_roles='first', nn_direction=direction), POOL)
        assert model.unimodal_loss(VIEWS, 'image').item() == pytest.approx(loss, abs=1e-6)

    def test_without_a_pool_views_are_paired_directly(self, tmp_path: Path) -> None:
        model = prepare_for_losses(safeclip(tmp_path, pool_size=0, nn_direction='view_rows'))
        assert model.unimodal_loss(VIEWS, 'image').item() == pytest.approx(0.6557430183, abs=1e-6)

    def test_an_empty_pool_gives_the_loss_without_a_pool(self, tmp_path: Path) -> None:
        without = prepare_for_losses(safeclip(tmp_path, pool_size=0))
        empty = prepare_for_losses(safeclip(tmp_path, nn_roles='first'))
        empty.pools['image'] = NeighborPool(5, 2)
        assert empty.unimodal_loss(VIEWS, 'image').item() == pytest.approx(without.unimodal_loss(VIEWS, 'image').item())
        assert empty.pools['image'].rows[:2].tolist() == [[pytest.approx(x) for x in row] for row in VIEWS[0].tolist()]

    def test_gradient_of_the_released_form_reaches_only_the_second_view(self, tmp_path: Path) -> None:
        model = prepare_for_losses(safeclip(tmp_path, nn_roles='first', nn_direction='view_rows'), POOL)
        first, second = (view.clone().requires_grad_() for view in VIEWS)
        loss = model.unimodal_loss(torch.stack([first, second]), 'image')
        gradients = torch.autograd.grad(loss, (first, second, model.towers.logit_scale))
        expected = torch.tensor([[-0.2749169987, 0.2749169987], [0.1344707107, -0.1344707107]])
        assert not gradients[0].any()
        assert torch.allclose(gradients[1], expected, atol=1e-6)
        assert gradients[2] != 0

    def test_both_roles_give_the_mean_of_two_losses(self, tmp_path: Path) -> None:
        views = unit_rows(8, 2, seed=0).float().view(2, 4, 2)
        one, both = (prepare_for_losses(safeclip(tmp_path, nn_roles=roles), POOL) for roles in ('first', 'both'))
        first_role = one.unimodal_loss(views, 'image').item()
        prepare_for_losses(one, POOL)
        second_role = one.unimodal_loss(views.flip(0), 'image').item()
        assert both.unimodal_loss(views, 'image').item() == pytest.approx((first_role + second_role) / 2)

    def test_gradient_with_both_roles_reaches_both_views(self, tmp_path: Path) -> None:
        model = prepare_for_losses(safeclip(tmp_path), POOL)
        views = VIEWS.clone().requires_grad_()
        model.unimodal_loss(views, 'image').backward()
        assert views.grad is not None
        assert views.grad.flatten(1).any(1).all()

    def test_looks_up_neighbors_before_it_adds_embeddings(self, tmp_path: Path) -> None:
        model = prepare_for_losses(safeclip(tmp_path, nn_roles='first', nn_direction='view_rows'), POOL)
        model.unimodal_loss(VIEWS, 'image')
        assert model.pools['image'].rows.tolist() == [*VIEWS[0].tolist(), [-1, 0]]
        assert torch.equal(model.pools['text'].rows, POOL)

    def test_images_and_captions_have_equal_weight(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = prepare_for_losses(safeclip(tmp_path))
        parts = {'image': 0.5557002784, 'text': 1.0}
        monkeypatch.setattr(model, 'unimodal_loss', lambda views, modality: torch.tensor(parts[modality]))
        terms = model.losses(VIEWS, VIEWS, cross_modal=0)
        assert terms['unimodal'].item() == pytest.approx(0.7778501392, abs=1e-6)


class TestSides:
    def views(self, seed: int) -> Tensor:
        return unit_rows(12, 4, seed).float().view(2, 6, 4)

    @pytest.mark.parametrize(
        ('safe', 'terms'), [(6, {'cross_modal'}), (0, {'unimodal'}), (2, {'cross_modal', 'unimodal'})]
    )
    def test_each_side_has_its_own_loss(self, tmp_path: Path, safe: int, terms: set[str]) -> None:
        model = prepare_for_losses(safeclip(tmp_path, pool_size=0))
        assert model.losses(self.views(0), self.views(1), safe).keys() == terms

    @pytest.mark.parametrize('views', [1, 2])
    def test_loss_of_a_side_ignores_pairs_of_the_other_side(self, tmp_path: Path, views: int) -> None:
        model = prepare_for_losses(safeclip(tmp_path, pool_size=0, views=views))
        image, text = self.views(0), self.views(1)
        joint = model.losses(image, text, cross_modal=2)
        safe = model.losses(image[:views, :2], text[:views, :2], cross_modal=2)
        risky = model.losses(image[:, 2:], text[:, 2:], cross_modal=0)
        assert joint['cross_modal'].item() == pytest.approx(safe['cross_modal'].item())
        assert joint['unimodal'].item() == pytest.approx(risky['unimodal'].item())

    def test_risky_pairs_are_never_aligned(self, tmp_path: Path) -> None:
        model = prepare_for_losses(safeclip(tmp_path, pool_size=0))
        image, text = self.views(0).requires_grad_(), self.views(1).requires_grad_()
        model.losses(image, text, cross_modal=0)['unimodal'].backward()
        gradient = image.grad
        other = self.views(2).requires_grad_()
        image.grad = None
        model.losses(image, other, cross_modal=0)['unimodal'].backward()
        assert gradient is not None
        assert image.grad is not None
        assert torch.equal(gradient, image.grad)  # independent of the captions


class TestRuns:
    def test_epochs_train_the_sides_of_their_phase(self, half_risky_run: tuple[L.Trainer, Watch]) -> None:
        run, watch = half_risky_run
        assert watch.steps[:4] == [(0, 0, 2)] * 4
        assert watch.steps[4:8] == [(1, 8, 1)] * 4
        for start in (8, 12):
            assert sorted(watch.steps[start : start + 4]) == [(start // 4, 0, 2)] * 2 + [(start // 4, 8, 1)] * 2
        assert {'train/loss', 'train/cross_modal', 'train/unimodal'} <= run.callback_metrics.keys()

    def test_warm_up_trains_on_every_pair_whatever_the_split(self, half_risky_run: tuple[L.Trainer, Watch]) -> None:
        for epoch in range(2):
            assert sorted(half_risky_run[1].rows(4 * epoch, 4 * epoch + 4)) == list(range(32))

    def test_mixed_epochs_follow_the_split(self, half_risky_run: tuple[L.Trainer, Watch]) -> None:
        _, watch = half_risky_run
        for (epoch, safe, _), rows in zip(watch.steps, watch.drawn, strict=True):
            assert epoch < 2 or all((row >= 16) == (safe > 0) for row in rows)

    def test_without_a_split_mixed_epochs_are_plain_clip(self, tmp_path: Path) -> None:
        _, watch = fit(safeclip(tmp_path), pairs(tmp_path))
        assert watch.steps[8:] == [(2, 8, 1)] * 4 + [(3, 8, 1)] * 4
        assert sorted(watch.rows(8, 12)) == list(range(32))

    def test_without_warm_up_and_split_it_is_clip(self, tmp_path: Path) -> None:
        architecture = tiny_architecture(tmp_path)
        models = []
        for kind, plan in ((CLIP, {}), (SafeCLIP, {'unimodal_epochs': 0, 'slow_epochs': 0})):
            torch.manual_seed(0)
            models.append(kind(architecture=architecture, **plan))
            fit(models[-1], pairs(tmp_path, image_views=SimCLRViews()), max_epochs=2)
        first, second = (model.towers.state_dict() for model in models)
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_joint_batches_hold_both_sides(self, tmp_path: Path) -> None:
        run, watch = fit(safeclip(tmp_path), pairs(tmp_path, order='joint'), HalfRisky())
        assert watch.steps[8:] == [(2, 4, 2)] * 4 + [(3, 4, 2)] * 4
        metrics = run.callback_metrics
        total = metrics['train/cross_modal'] + metrics['train/unimodal']
        assert metrics['train/loss'].item() == pytest.approx(total.item())

    def test_a_term_that_a_step_lacks_is_not_that_of_an_earlier_step(self, tmp_path: Path) -> None:
        run, _ = fit(safeclip(tmp_path), pairs(tmp_path, order='sequential'), HalfRisky())
        assert run.callback_metrics['train/unimodal'].isnan()  # the last batches are safe
        assert run.callback_metrics['train/loss'] == run.callback_metrics['train/cross_modal']

    def test_refuses_a_last_step_which_phases_and_learning_rates_would_take_differently(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'slow phase later than its learning rates: set trainer\.max_epochs\.$'):
            fit(safeclip(tmp_path), pairs(tmp_path), max_steps=10)

    def test_sequential_order_puts_risky_batches_first(self, tmp_path: Path) -> None:
        _, watch = fit(safeclip(tmp_path), pairs(tmp_path, order='sequential'), HalfRisky())
        assert [safe for _, safe, _ in watch.steps[8:]] == [0, 0, 8, 8] * 2

    def test_risky_pairs_can_be_left_out(self, tmp_path: Path) -> None:
        _, watch = fit(safeclip(tmp_path, in_modal=False), pairs(tmp_path), HalfRisky())
        assert [safe for _, safe, _ in watch.steps[8:]] == [8] * 8
        assert set(watch.rows(8)) == set(range(16, 32))

    @pytest.mark.parametrize('option', [{'nn_roles': 'first'}, {'views': 2}, {'nn_direction': 'nn_rows'}])
    def test_trains_with_every_option(self, tmp_path: Path, option: dict[str, Any]) -> None:
        _, watch = fit(safeclip(tmp_path, **option), pairs(tmp_path, image_views=SimCLRViews()), HalfRisky())
        assert len(watch.steps) == 16

    @pytest.mark.parametrize('order', ['interleaved', 'joint'])
    def test_runs_in_mixed_precision(self, tmp_path: Path, order: str) -> None:
        model = safeclip(tmp_path)
        fit(model, pairs(tmp_path, order=order), HalfRisky(), precision='bf16-mixed')
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}


class TestCheckpoints:
    def test_scores_pairs_of_another_data_set(self, tmp_path: Path) -> None:
        model = safeclip(tmp_path, pool_size=10)
        run, _ = fit(model, pairs(tmp_path, rows=48))
        run.save_checkpoint(tmp_path / 'model.ckpt')
        fresh, other = safeclip(tmp_path, pool_size='auto'), pairs(tmp_path, rows=13, picture_seed=1, batch_size=13)
        outputs: Any = trainer().predict(fresh, other, ckpt_path=tmp_path / 'model.ckpt', weights_only=True)
        assert torch.cat([output['row'] for output in outputs]).tolist() == list(range(13))
        assert {name: len(pool.rows) for name, pool in fresh.pools.items()} == {'image': 10, 'text': 10}
        assert all(torch.equal(value, weights(fresh)[name]) for name, value in weights(model).items())

    def test_a_pool_may_be_smaller_than_a_batch_if_nothing_is_trained(self, tmp_path: Path) -> None:
        data = pairs(tmp_path)
        outputs: Any = trainer().predict(safeclip(tmp_path, pool_size=7), data)
        assert torch.cat([output['row'] for output in outputs]).tolist() == list(range(len(data.table)))

    def test_training_refuses_pools_of_another_size(self, tmp_path: Path) -> None:
        run, _ = fit(safeclip(tmp_path, pool_size=16), pairs(tmp_path), max_epochs=1)
        run.save_checkpoint(tmp_path / 'model.ckpt')
        with pytest.raises(ValueError, match=r'pools of 16 embeddings and this run makes them 32: .* model.pool_size'):
            trainer().fit(safeclip(tmp_path), pairs(tmp_path), ckpt_path=tmp_path / 'model.ckpt', weights_only=True)

    def test_a_model_without_pools_can_be_evaluated(self, tmp_path: Path) -> None:
        run, _ = fit(safeclip(tmp_path, pool_size=0), pairs(tmp_path))
        run.save_checkpoint(tmp_path / 'model.ckpt')
        fresh = safeclip(tmp_path)
        trainer().validate(fresh, pairs(tmp_path), tmp_path / 'model.ckpt', verbose=False, weights_only=True)
        assert not fresh.pools


ROWS, POISONS = 1200, 120


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> TinyPairs:
    folder = tmp_path_factory.mktemp('behavior')
    views = SimCLRViews(crop_scale=(0.5, 1.0), blur=0)
    data = pairs(folder, rows=ROWS, mismatched=POISONS, classes=10, heldout_rows=0, batch_size=16, image_views=views)
    torch.manual_seed(0)
    architecture = tiny_architecture(folder, 'clusters', width=32)
    model = SafeCLIP(architecture=architecture, unimodal_epochs=3, lr=2e-3, slow_lr=2e-3)
    fit(model, data, SafeRiskyRepartition(min_fraction=0), max_epochs=4)
    return data


@pytest.mark.slow
class TestBehavior:
    """The pairs form ten clusters; a tenth of them have the caption of another cluster, and are not marked."""

    def test_poisons_are_less_similar_after_the_warm_up(self, trained: TinyPairs) -> None:
        clean, poisoned = trained.partition.score[:-POISONS], trained.partition.score[-POISONS:]
        assert poisoned.mean() < clean.mean()
        auroc = (clean[:, None] > poisoned).double().mean()  # area under the ROC curve
        assert auroc > 0.9

    def test_the_safe_side_is_cleaner_than_the_data(self, trained: TinyPairs) -> None:
        safe = trained.partition.rows(SAFE)
        assert 0.3 * ROWS < len(safe) < ROWS
        assert (safe >= ROWS - POISONS).double().mean() < 0.5 * POISONS / ROWS

    def test_the_safe_side_is_what_the_mixture_accepts(self, trained: TinyPairs) -> None:
        mixture, score = trained.partition.mixture, trained.partition.score.double()
        assert mixture is not None
        low, high = (
            mixture[f'weight_{part}'] / mixture[f'sd_{part}']
            * torch.exp(-0.5 * ((score - mixture[f'mean_{part}']) / mixture[f'sd_{part}']) ** 2)
            for part in ('low', 'high')
        )  # fmt: skip
        posterior = high / (low + high)
        cut = score[(posterior >= 0.9) & (score > mixture['mean_low'])].min()  # nothing above it is risky
        assert torch.equal(trained.partition.side == SAFE, score >= cut)
        assert mixture['threshold'] == pytest.approx(cut.item())
        assert math.isclose(trained.partition.share, float((score >= cut).double().mean()), abs_tol=1e-6)
