from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import open_clip
import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from datamodules.pictures.augment import SimCLRViews
from datamodules.pictures.batches import PairBatch
from datamodules.text.eda import EDA
from datamodules.text.token_cache import prompt_tokens
from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError
from lightning_modules import clip as clip_module
from lightning_modules.clip import CLIP, MAX_LOGIT_SCALE, Pairs, check_norms, check_strategy, most_accumulated
from lightning_modules.schedules import warmup_cosine
from tests.helpers.tiny import CONTEXT_LENGTH, IMAGE_SIZE, TinyPairs, tiny_architecture, trainer, unit_rows


class Watch(Callback):
    """Records every training step and the outputs of evaluation."""

    def __init__(self) -> None:
        self.rates: list[float] = []  # learning rate of the optimizer at each step
        self.logged: list[float] = []  # learning rate that was logged for it
        self.scales: list[float] = []
        self.outputs: list[dict[str, Tensor]] = []
        self.batches: list[PairBatch] = []
        self.logits: list[Tensor] = []
        self.images: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]['lr'])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.outputs.append(outputs)
        self.batches.append(batch)
        self.logged.append(float(trainer.callback_metrics['train/lr']))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.scales.append(pl_module.towers.logit_scale.item())  # after the previous step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.scales.append(pl_module.towers.logit_scale.item())

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.logits.append(outputs['logits'])
        self.images.append(outputs['image'])


def clip(folder: Path, **kwargs: Any) -> CLIP:
    torch.manual_seed(0)
    return CLIP(**{'architecture': tiny_architecture(folder), **kwargs})


def pairs(folder: Path, **kwargs: Any) -> TinyPairs:
    return TinyPairs(cache_dir=str(folder / 'cache'), **kwargs)


def fit(model: CLIP, folder: Path, data: TinyPairs | None = None, **kwargs: Any) -> tuple[L.Trainer, Watch]:
    watch = Watch()
    run = trainer(callbacks=[watch], **kwargs)
    run.fit(model, data or pairs(folder))
    return run, watch


@pytest.fixture(scope='module')
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIP, L.Trainer, Watch]:
    """A model, its trainer and the record of its eight steps."""
    folder = tmp_path_factory.mktemp('trained_run')
    model = clip(folder, lr=1e-3, warmup_steps=3, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.3)
    return (model, *fit(model, folder, max_epochs=2))


def on_one_process(model: CLIP) -> CLIP:
    """Gives the model as much of a trainer as a loss needs."""
    model._trainer = SimpleNamespace(world_size=1)
    return model


def set_scale(model: CLIP, scale: float) -> None:
    with torch.no_grad():
        model.towers.logit_scale.fill_(math.log(scale))


def inputs(count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    return image, torch.randint(1, 49_000, (count, CONTEXT_LENGTH), generator=generator)


def weights(model: CLIP) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestTowers:
    @pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16])
    def test_embeddings_have_unit_norm_in_float32(self, tmp_path: Path, precision: torch.dtype) -> None:
        model, (image, tokens) = clip(tmp_path), inputs()
        with torch.autocast('cpu', precision, enabled=precision != torch.float32):
            embedded = model.encode_image(image), model.encode_text(tokens)
        for rows in embedded:
            assert rows.shape == (5, model.width)
            assert rows.dtype == torch.float32
            assert torch.allclose(rows.norm(dim=1), torch.ones(5), atol=1e-5)

    def test_sizes_come_from_the_architecture(self, tmp_path: Path) -> None:
        model = clip(tmp_path, architecture=tiny_architecture(tmp_path, 'other', width=12, image_size=16))
        assert (model.image_size, model.context_length, model.width) == (16, CONTEXT_LENGTH, 12)

    def test_shipped_architectures_are_known_by_file_name(self) -> None:
        assert CLIP('tiny_toy.json').width == 128

    def test_starts_at_the_temperature_of_the_paper(self, tmp_path: Path) -> None:
        assert clip(tmp_path).logit_scale.item() == pytest.approx(1 / 0.07)

    def test_memory_format_does_not_change_embeddings(self, tmp_path: Path) -> None:
        image, _ = inputs()
        plain, last = clip(tmp_path), clip(tmp_path, channels_last=True)
        assert torch.allclose(last.encode_image(image), plain.encode_image(image), atol=1e-5)

    def test_every_epoch_trains_all_pairs_across_modalities(self, tmp_path: Path) -> None:
        model = clip(tmp_path, views=2)
        assert {model.phase(epoch) for epoch in range(9)} == {'clip'}
        assert [model.sides(epoch) for epoch in range(3)] == [{'cross_modal': 2}] * 3


class TestLoss:
    def test_one_view_gives_info_nce(self, tmp_path: Path) -> None:
        model = on_one_process(clip(tmp_path))
        set_scale(model, 1)
        image, text = torch.tensor([[[1.0, 0], [0.6, 0.8]]]), torch.tensor([[[0.8, 0.6], [1, 0]]])
        loss = model.losses(image, text, cross_modal=2)['cross_modal']
        assert loss.item() == pytest.approx(0.8441895860, abs=1e-6)

    @pytest.mark.parametrize(('scale', 'expected'), [(1, 0.5989004887), (1 / 0.07, 0.9838562483)])
    def test_two_views_give_the_known_loss(self, tmp_path: Path, scale: float, expected: float) -> None:
        model = on_one_process(clip(tmp_path, views=2))
        set_scale(model, scale)
        image = torch.tensor([[[1.0, 0], [0, 1]], [[0.6, 0.8], [0.8, 0.6]]], dtype=torch.float64)
        text = torch.tensor([[[0.8, 0.6], [0, 1]], [[1, 0], [0.6, 0.8]]], dtype=torch.float64)
        assert model.cross_modal_loss(image, text).item() == pytest.approx(expected, abs=1e-6)

    def test_two_views_are_crossed(self, tmp_path: Path) -> None:
        model = on_one_process(clip(tmp_path, views=2))
        set_scale(model, 5)
        image, text = unit_rows(12, 4, seed=0).view(2, 6, 4), unit_rows(12, 4, seed=1).view(2, 6, 4)
        positives = torch.arange(6)
        to_text = torch.nn.functional.cross_entropy(5 * image[0] @ text[1].T, positives)
        to_image = torch.nn.functional.cross_entropy(5 * text[0] @ image[1].T, positives)
        assert model.cross_modal_loss(image, text).item() == pytest.approx((to_text + to_image).item() / 2, abs=1e-6)

    def test_has_no_term_for_risky_pairs(self, tmp_path: Path) -> None:
        model = on_one_process(clip(tmp_path))
        image, text = unit_rows(6, 4, seed=0).view(1, 6, 4), unit_rows(6, 4, seed=1).view(1, 6, 4)
        assert model.losses(image, text, cross_modal=4).keys() == {'cross_modal'}

    def test_a_large_batch_is_sent_in_the_16_bits_of_mixed_precision(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clip_module, 'MAX_SENT_IN_FULL', 7)
        model, sent = clip(tmp_path), []
        model._trainer = SimpleNamespace(world_size=2, global_rank=1, precision='bf16-mixed')
        monkeypatch.setattr(model, 'all_gather', lambda rows, **_: sent.append(rows.dtype) or torch.stack([rows, rows]))
        rows = torch.tensor([[1.0], [1.001], [2], [3]])
        gathered, first = model.gather(rows)
        assert gathered.dtype == torch.float32 and first == 4
        assert gathered[:, 0].tolist() == [1, 1, 2, 3, 1, 1, 2, 3]
        assert torch.equal(model.gather(rows[:3]).rows[:3], rows[:3])  # a small batch, then tokens
        assert model.gather(torch.tensor([40_001] * 4)).rows.tolist() == [40_001] * 8
        assert sent == [torch.bfloat16, torch.float32, torch.int64]

    @pytest.mark.parametrize('views', [0, 3])
    def test_refuses_numbers_of_views_other_than_1_and_2(self, views: int) -> None:
        with pytest.raises(ValueError, match=f'model.views must be 1 or 2, got {views}'):
            CLIP(views=views)

    @pytest.mark.parametrize(
        ('argument', 'value'),
        [
            ('lr', -1.0),
            ('lr', math.nan),
            ('lr', math.inf),
            ('weight_decay', -0.1),
            ('warmup_steps', -1),
            ('betas', (0.9, 1.0)),
            ('eps', 0.0),
        ],
    )
    def test_refuses_numbers_out_of_range(self, argument: str, value: Any) -> None:
        with pytest.raises(ValueError, match=rf'^model\.{argument} must '):
            CLIP(**{argument: value})


class TestTrainingStep:
    def test_reads_only_fields_that_do_not_reveal_poisons(self) -> None:
        assert set(Pairs.__annotations__) == {'image', 'tokens', 'row', 'cross_modal'} < set(PairBatch._fields)

    @pytest.mark.parametrize('views', [1, 2])
    def test_returns_the_similarity_of_the_first_views(self, tmp_path: Path, views: int) -> None:
        model = clip(tmp_path, views=views, lr=0.0)  # so that training does not change the model
        _, watch = fit(model, tmp_path, pairs(tmp_path, image_views=SimCLRViews()), max_epochs=1)
        for batch, output in zip(watch.batches, watch.outputs, strict=True):
            assert len(batch.image) == views
            with torch.no_grad():
                expected = (model.encode_image(batch.image[0]) * model.encode_text(batch.tokens[0])).sum(1)
            assert torch.allclose(output['similarity'], expected, atol=1e-5)
            assert not output['similarity'].requires_grad
            assert output['similarity'].dtype == torch.float32

    def test_logs_loss_scale_and_rate(self, trained_run: tuple[CLIP, L.Trainer, Watch]) -> None:
        _, run, _ = trained_run
        assert {'train/loss', 'train/cross_modal', 'train/logit_scale', 'train/lr'} <= run.callback_metrics.keys()
        assert run.callback_metrics['train/loss'] == run.callback_metrics['train/cross_modal']

    def test_loss_decreases(self, tmp_path: Path) -> None:
        model = clip(tmp_path, architecture=tiny_architecture(tmp_path, width=32), lr=3e-3, warmup_steps=2)
        _, watch = fit(model, tmp_path, max_epochs=6)
        losses = [output['loss'].item() for output in watch.outputs]
        assert sum(losses[-4:]) < 0.9 * sum(losses[:4])

    @pytest.mark.parametrize(('start', 'end'), [(9.0, MAX_LOGIT_SCALE), (-3.0, 0.0)])
    def test_logit_scale_is_clamped_after_every_step(self, tmp_path: Path, start: float, end: float) -> None:
        model = clip(tmp_path, lr=1e-6)
        with torch.no_grad():
            model.towers.logit_scale.fill_(start)
        _, watch = fit(model, tmp_path, max_epochs=1)
        assert watch.scales[0] == start
        assert watch.scales[1:] == [pytest.approx(end, abs=1e-4)] * 4
        assert all(0 <= scale <= MAX_LOGIT_SCALE + 1e-6 for scale in watch.scales[1:])

    def test_runs_in_mixed_precision(self, tmp_path: Path) -> None:
        model = clip(tmp_path, views=2)
        run, watch = fit(model, tmp_path, max_epochs=1, precision='bf16-mixed')
        assert all(output['loss'].isfinite() for output in watch.outputs)
        assert {output['loss'].dtype for output in watch.outputs} == {torch.float32}
        assert {logits.dtype for logits in watch.logits} == {torch.float32}  # in bfloat16, many classes would tie
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        predicted = run.predict(model, pairs(tmp_path))
        assert predicted is not None
        assert {answer['similarity'].dtype for answer in predicted} == {torch.float32}


def check_groups(model: CLIP, optimizer: torch.optim.Optimizer) -> None:
    """Checks that every parameter is in one of two groups: decayed if it is a matrix, otherwise not decayed."""
    decayed, undecayed = optimizer.param_groups
    assert decayed['weight_decay'] > 0 == undecayed['weight_decay']
    assert all(p.ndim >= 2 for p in decayed['params'])
    assert all(p.ndim < 2 for p in undecayed['params'])
    assert {*decayed['params'], *undecayed['params']} == set(model.parameters())


class TestOptimizer:
    def test_decays_matrices_only(self, trained_run: tuple[CLIP, L.Trainer, Watch]) -> None:
        model, run, _ = trained_run
        check_groups(model, run.optimizers[0])
        assert any(p is model.towers.logit_scale for p in run.optimizers[0].param_groups[1]['params'])

    def test_does_not_decay_batch_norms_in_shortcuts(self, tmp_path: Path) -> None:
        model = CLIP('tiny_toy.json')
        run, _ = fit(model, tmp_path, pairs(tmp_path, rows=8, batch_size=4), max_epochs=1)
        check_groups(model, run.optimizers[0])
        shortcuts = [p for name, p in model.named_parameters() if name.endswith('downsample.1.weight')]
        assert [p.ndim for p in shortcuts] == [1] * 4  # the released code goes by names and decays these

    def test_constants_come_from_the_arguments(self, trained_run: tuple[CLIP, L.Trainer, Watch]) -> None:
        group = trained_run[1].optimizers[0].param_groups[0]
        constants = [group[name] for name in ('initial_lr', 'betas', 'eps', 'weight_decay')]
        assert constants == [1e-3, (0.8, 0.99), 1e-6, 0.3]

    def test_a_zero_gradient_still_moves_a_weight_but_no_gradient_does_not(
        self, trained_run: tuple[CLIP, L.Trainer, Watch]
    ) -> None:
        fused = trained_run[1].optimizers[0].param_groups[0]['fused']
        weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        optimizer = torch.optim.AdamW([weight], lr=5e-5, weight_decay=0.1, fused=fused)
        for gradient, expected in ((1.0, 0.9999450000), (0.0, 0.9999064974), (None, 0.9999064974)):
            weight.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
            assert weight.item() == pytest.approx(expected, abs=1e-9)

    def test_gradients_can_be_clipped(self, tmp_path: Path) -> None:
        run, _ = fit(clip(tmp_path), tmp_path, max_epochs=1, gradient_clip_val=0.5)
        assert not run.optimizers[0].param_groups[0]['fused']  # Lightning 2.6 cannot clip before a fused step

    def test_learning_rate_follows_the_schedule_and_is_logged(self, trained_run: tuple[CLIP, L.Trainer, Watch]) -> None:
        _, _, watch = trained_run
        assert watch.rates == pytest.approx([1e-3 * warmup_cosine(step, 3, 8) for step in range(8)])
        assert watch.logged == pytest.approx(watch.rates)

    def test_refuses_to_accumulate_batches_that_do_not_see_each_other(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'trainer.accumulate_grad_batches=2 .* set data.batch_size'):
            fit(clip(tmp_path), tmp_path, max_epochs=1, accumulate_grad_batches=2)

    def test_sees_accumulation_in_a_later_epoch(self) -> None:
        run = trainer(callbacks=[GradientAccumulationScheduler({3: 4})])
        assert most_accumulated(run) == 4

    def test_a_run_that_accumulated_can_be_tested(self, tmp_path: Path) -> None:
        run = trainer(accumulate_grad_batches=2)
        run.test(clip(tmp_path), pairs(tmp_path))
        assert run.state.finished

    @pytest.mark.parametrize('kind', [FSDPStrategy, DeepSpeedStrategy])
    def test_refuses_strategies_that_split_the_model(self, kind: type[Strategy]) -> None:
        trainer = SimpleNamespace(strategy=kind.__new__(kind))  # the constructor of one needs the package deepspeed
        with pytest.raises(UsageError, match=rf'trainer.strategy={kind.__name__} splits the model'):
            check_strategy(cast(L.Trainer, trainer))

    def test_refuses_to_synchronize_norms_that_hold_an_activation(self) -> None:
        # torch 2.14 and Lightning 2.6 replace the whole norm of timm 1.0; see findings/.
        trainer = SimpleNamespace(strategy=SimpleNamespace(_layer_sync=TorchSyncBatchNorm()))
        check_norms(cast(L.Trainer, trainer), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
        with pytest.raises(UsageError, match='sync_batchnorm=true would remove the activations'):
            check_norms(cast(L.Trainer, trainer), nn.Sequential(BatchNormAct2d(4)))

    def test_warms_up_for_a_tenth_of_the_run_by_default(self, tmp_path: Path) -> None:
        _, watch = fit(clip(tmp_path, lr=1e-3), tmp_path, max_epochs=5)
        assert watch.rates[:3] == pytest.approx([5e-4, 1e-3, 1e-3])

    def test_a_resumed_run_takes_its_own_settings(self, tmp_path: Path) -> None:
        run, _ = fit(clip(tmp_path, lr=1e-3, warmup_steps=2), tmp_path, max_epochs=1)
        run.save_checkpoint(tmp_path / 'first.ckpt')
        settings: dict[str, Any] = {'lr': 4e-3, 'warmup_steps': 6, 'weight_decay': 0.4, 'betas': (0.7, 0.8)}
        watch, model = Watch(), clip(tmp_path, **settings)
        run = trainer(callbacks=[watch], max_epochs=2)
        run.fit(model, pairs(tmp_path), ckpt_path=tmp_path / 'first.ckpt', weights_only=True)
        assert watch.rates == pytest.approx([4e-3 * warmup_cosine(step, 6, 8) for step in range(4, 8)])
        groups = run.optimizers[0].param_groups
        assert [(group['weight_decay'], group['betas']) for group in groups] == [(0.4, (0.7, 0.8)), (0.0, (0.7, 0.8))]

    def test_refuses_to_resume_with_epochs_of_another_length(self, tmp_path: Path) -> None:
        run, _ = fit(clip(tmp_path), tmp_path, max_epochs=1)
        run.save_checkpoint(tmp_path / 'first.ckpt')
        again = trainer(max_epochs=2, limit_train_batches=2)
        with pytest.raises(UsageError, match=r'a run with 4 batches in an epoch, and this one has 2: resume with data'):
            again.fit(clip(tmp_path), pairs(tmp_path), ckpt_path=tmp_path / 'first.ckpt', weights_only=True)

    def test_requires_max_epochs(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'trainer.max_epochs must be set'):
            fit(clip(tmp_path), tmp_path, max_epochs=-1, max_steps=2)


class TestEvaluation:
    def test_a_class_is_the_normalized_mean_of_its_prompts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = clip(tmp_path)
        rows = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1], [0, 1]])
        monkeypatch.setattr(model, 'encode_text', lambda tokens: rows[tokens[:, 0]])
        classifier = model.classifier(torch.arange(4).view(2, 2, 1))
        expected = torch.tensor([[0.8944271910, 0.4472135955], [0, 1]])
        assert torch.allclose(classifier, expected, atol=1e-6)

    def test_the_classifier_is_that_of_open_clip(self, tmp_path: Path) -> None:
        model, classes, templates = clip(tmp_path).eval(), ['cat', 'hot dog', 'boat'], ['a photo of a {}.', 'the {}']
        tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
        theirs = open_clip.build_zero_shot_classifier(
            model.towers, tokenizer, classes, [template.format for template in templates]
        )
        tokens = prompt_tokens(classes, templates, WordTokenizer(model.context_length))
        assert torch.allclose(model.classifier(tokens), theirs.T, rtol=0, atol=1e-6)

    def test_logits_are_the_cosines_to_every_class(self, tmp_path: Path) -> None:
        model, data, watch = clip(tmp_path), pairs(tmp_path, heldout_rows=15), Watch()
        trainer(callbacks=[watch]).validate(model, data, verbose=False)
        assert [tuple(logits.shape) for logits in watch.logits] == [(10, 4), (5, 4)]
        batch = data.on_after_batch_transfer(next(iter(data.val_dataloader()[0])), 0)
        with torch.no_grad():
            expected = model.encode_image(batch.image) @ model.classifier(data.prompt_tokens()[0]).T
        assert torch.allclose(watch.logits[0], expected, atol=1e-5)
        assert torch.allclose(watch.images[0], model.encode_image(batch.image), atol=1e-5)

    def test_test_step_is_the_validation_step(self, tmp_path: Path) -> None:
        model = clip(tmp_path)
        assert model.test_step.__func__ is model.validation_step.__func__
        trainer().test(model, pairs(tmp_path), verbose=False)

    def test_predicts_the_similarity_of_every_clean_pair(self, tmp_path: Path) -> None:
        model, data = clip(tmp_path), pairs(tmp_path, image_views=SimCLRViews(), caption_views=EDA())
        outputs: Any = trainer().predict(model, data)
        assert torch.cat([output['row'] for output in outputs]).tolist() == list(range(32))
        batches = [data.on_after_batch_transfer(batch, 0) for batch in data.sweep_dataloader()]
        with torch.no_grad():
            expected = [(model.encode_image(b.image[0]) * model.encode_text(b.tokens[0])).sum(1) for b in batches]
        similarity = torch.cat([output['similarity'] for output in outputs])
        assert torch.allclose(similarity, torch.cat(expected), atol=1e-5)
        image, text = (torch.cat([output[modality] for output in outputs]) for modality in ('image', 'text'))
        assert image.shape == text.shape == (32, model.width)
        assert torch.allclose((image * text).sum(1), similarity, atol=1e-6)

    def test_predicts_the_mean_similarity_of_several_views(self, tmp_path: Path) -> None:
        model, data = clip(tmp_path), pairs(tmp_path, image_views=SimCLRViews(), caption_views=EDA())
        trainer().predict(model, data)
        for raw in data.sweep_dataloader(epoch=0, views=3):
            batch = data.on_after_batch_transfer(raw, 0)
            with torch.no_grad():
                views = zip(batch.image, batch.tokens, strict=True)
                by_view = [(model.encode_image(image) * model.encode_text(tokens)).sum(1) for image, tokens in views]
                similarity = model.predict_step(batch, 0)['similarity']
            assert len(by_view) == 3 and torch.allclose(similarity, torch.stack(by_view).mean(0), atol=1e-5)


class TestArchitecture:
    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"model.architecture='RN51' is not an open_clip model"):
            CLIP('RN51')

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"model.architecture='.*absent.json' does not exist: give the path"):
            CLIP(str(tmp_path / 'absent.json'))

    @pytest.mark.parametrize(
        ('architecture', 'tags'), [('RN50', 'openai, yfcc15m, cc12m'), ('tiny_toy.json', 'none, so leave it null')]
    )
    def test_unknown_weights_are_refused(self, architecture: str, tags: str) -> None:
        with pytest.raises(ValueError, match=rf"model.pretrained='opanai' is neither a file .*\. Its tags: {tags}"):
            CLIP(architecture, pretrained='opanai')

    @pytest.mark.parametrize(('width', 'layers'), [(12, 1), (8, 2)])
    def test_a_checkpoint_of_another_architecture_is_refused(self, tmp_path: Path, width: int, layers: int) -> None:
        for name, other in (('small', 'large'), ('large', 'small')):
            models = {
                'small': tiny_architecture(tmp_path, 'small'),
                'large': tiny_architecture(tmp_path, 'large', width, layers),
            }
            path = save_model(clip(tmp_path, architecture=models[name]), tmp_path)
            with pytest.raises(ValueError, match=r'init_from holds weights of another architecture \(\d+ tensors'):
                CLIP(models[other], init_from=path)
            with pytest.raises(ValueError, match=r'ckpt_path holds weights of another .*: set model.architecture'):
                trainer().validate(CLIP(models[other]), pairs(tmp_path), ckpt_path=path, weights_only=True)


def save_model(model: CLIP, folder: Path) -> str:
    """Saves a checkpoint as a run would, and returns its path."""
    run, path = trainer(), str(folder / 'model.ckpt')
    run.strategy.connect(model)
    run.save_checkpoint(path, weights_only=True)
    return path


class TestWeights:
    def test_start_from_a_checkpoint(self, tmp_path: Path) -> None:
        model = clip(tmp_path, lr=1e-3)
        path = save_model(model, tmp_path)
        torch.manual_seed(1)
        other = CLIP(model.architecture)
        assert not equal_weights(weights(other), weights(model))
        assert other.untrained
        started = CLIP(model.architecture, init_from=path)
        assert equal_weights(weights(started), weights(model))
        assert not started.untrained
        assert started.lr == 5e-4  # the settings of the other run are ignored

    def test_start_from_a_file_of_open_clip(self, tmp_path: Path) -> None:
        model = clip(tmp_path)
        torch.save(model.towers.state_dict(), tmp_path / 'towers.pt')
        started = CLIP(model.architecture, pretrained=str(tmp_path / 'towers.pt'))
        assert equal_weights(weights(started), weights(model))
        assert not started.untrained

    def test_a_missing_checkpoint_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"model.init_from='absent.ckpt' does not exist"):
            clip(tmp_path, init_from='absent.ckpt')

    @pytest.mark.parametrize('content', [b'', b'PK' + bytes(60)], ids=['empty', 'cut'])
    def test_a_file_that_cannot_be_loaded_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / 'cut.ckpt').write_bytes(content)
        with pytest.raises(ValueError, match=r'cut.ckpt. is damaged, or not a checkpoint'):
            clip(tmp_path, init_from=str(tmp_path / 'cut.ckpt'))

    def test_dropout_does_not_depend_on_where_a_run_was_resumed(self, tmp_path: Path) -> None:
        model = clip(tmp_path)
        model._trainer = SimpleNamespace(current_epoch=3, global_rank=0)
        drawn = []
        for _ in range(2):
            model.on_train_epoch_start()
            drawn.append(torch.rand(3).tolist())
            torch.rand(17)
        assert drawn[0] == drawn[1]
        model._trainer.current_epoch = 4
        model.on_train_epoch_start()
        assert torch.rand(3).tolist() != drawn[0]
