from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from datamodules.attacks import BadNet
from datamodules.pictures.augment import CleanView, SimCLRViews
from datamodules.rows.filters import CleanSubset, RandomSubset
from datamodules.text.eda import EDA
from datamodules.usage_error import UsageError
from lightning_modules.abd import ABD
from lightning_modules.cleanclip import CleanCLIP
from lightning_modules.clip import CLIP
from lightning_modules.par import PAR
from lightning_modules.poisoned import PoisonedModel
from lightning_modules.roclip import RoCLIP
from lightning_modules.supervised import SupervisedFinetuning
from tests.helpers.tiny import CONTEXT_LENGTH, IMAGE_SIZE, TinyPairs, tiny_architecture, trainer

METHODS: list[type[CLIP]] = [CleanCLIP, PAR, ABD, SupervisedFinetuning]
TWO_VIEWS: dict[str, Any] = {
    'image_views': [CleanView(), SimCLRViews()],
    'caption_views': [None, EDA(alpha=0.3, operations=('swap', 'deletion'))],
}
BADNET = {'badnet': BadNet('dog', count=3, size=3, captions='templates')}


@pytest.fixture(scope='module')
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of a model that starts from a checkpoint, and those of the same model without it."""
    folder = tmp_path_factory.mktemp('poisoned')
    torch.manual_seed(0)
    model = CLIP(tiny_architecture(folder))
    torch.save({'state_dict': model.state_dict()}, folder / 'poisoned.ckpt')
    return {'architecture': tiny_architecture(folder), 'init_from': str(folder / 'poisoned.ckpt'), 'lr': 1e-3}


def pairs(folder: Path, method: type[CLIP] = CLIP, **kwargs: Any) -> TinyPairs:
    views: dict[str, Any] = TWO_VIEWS if issubclass(method, CleanCLIP) else {}
    return TinyPairs(cache_dir=str(folder / 'cache'), **{'rows': 16, **views, **kwargs})


class Losses(Callback):
    """Records the loss of every step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(outputs['loss'].item())


def fit(model: CLIP, data: TinyPairs, *callbacks: Callback, resume: Path | None = None) -> list[float]:
    """Trains two epochs of two steps; returns their losses."""
    losses = Losses()
    run = trainer(callbacks=[losses, *callbacks], enable_checkpointing=bool(callbacks))
    run.fit(model, data, ckpt_path=resume)
    return losses.steps


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings('ignore:.*in eval mode')  # the poisoned model
class TestRuns:
    @pytest.mark.filterwarnings('ignore:.*callbacks used to create the checkpoint')
    @pytest.mark.parametrize('method', METHODS)
    def test_resumes_as_if_it_had_not_been_killed(
        self, method: type[CLIP], poisoned: dict[str, Any], tmp_path: Path
    ) -> None:
        """From the checkpoint alone: the grid does not name the poisoned model again."""
        keep = ModelCheckpoint(tmp_path / 'kept', '{epoch}', save_top_k=-1, save_on_train_epoch_end=True)
        whole = method(**poisoned)
        losses = fit(whole, pairs(tmp_path, method), keep)
        resumed = method(**{**poisoned, 'init_from': None})
        assert fit(resumed, pairs(tmp_path, method), resume=tmp_path / 'kept' / 'epoch=0.ckpt') == losses[2:]
        assert equal(resumed.state_dict(), whole.state_dict())
        again = CLIP(**{**poisoned, 'init_from': str(tmp_path / 'kept' / 'epoch=1.ckpt')})  # as any checkpoint of CLIP
        assert equal(again.towers.state_dict(), whole.towers.state_dict())

    @pytest.mark.parametrize('method', [PAR, RoCLIP, SupervisedFinetuning])
    def test_whatever_trained_a_model_it_is_evaluated_but_not_resumed_by_another(
        self, method: type[CLIP], poisoned: dict[str, Any], tmp_path: Path
    ) -> None:
        whole, data, run = method(**poisoned), pairs(tmp_path), trainer(max_epochs=1)
        run.fit(whole, data)
        run.save_checkpoint(tmp_path / 'run.ckpt')
        for other in CLIP(**{**poisoned, 'init_from': None}), PAR(**{**poisoned, 'init_from': None}):
            trainer().validate(other, pairs(tmp_path), ckpt_path=tmp_path / 'run.ckpt', verbose=False)
            assert equal(other.towers.state_dict(), whole.towers.state_dict())
        with pytest.raises(
            UsageError, match=r'of another model than this CLIP .* start from its weights with model.init'
        ):
            trainer().fit(CLIP(**poisoned), pairs(tmp_path), ckpt_path=tmp_path / 'run.ckpt')

    def test_a_classifier_that_was_not_trained_measures_nothing(self, poisoned: dict[str, Any], tmp_path: Path) -> None:
        data, run = pairs(tmp_path), trainer(max_epochs=1)
        run.fit(CLIP(**poisoned), data)
        run.save_checkpoint(tmp_path / 'clip.ckpt')
        with pytest.raises(UsageError, match=r'ckpt_path has no classifier, .* model\.evaluate=zero_shot'):
            trainer().validate(SupervisedFinetuning(**poisoned), data, ckpt_path=tmp_path / 'clip.ckpt')
        by_prompts = SupervisedFinetuning(**poisoned, evaluate='zero_shot')
        trainer().validate(by_prompts, data, ckpt_path=tmp_path / 'clip.ckpt', verbose=False)

    @pytest.mark.parametrize('method', [PAR, ABD])
    def test_a_repair_needs_a_model_to_repair(
        self, method: type[CLIP], poisoned: dict[str, Any], tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match=r'repairs a trained model: name it with model\.init_from or'):
            fit(method(**{**poisoned, 'init_from': None}), pairs(tmp_path, method))

    def test_par_moves_away_from_the_poisoned_model(self, poisoned: dict[str, Any], tmp_path: Path) -> None:
        model = PAR(**{**poisoned, 'lr': 1e-2, 'push_weight': 20.0})
        before = {name: value.clone() for name, value in model.poisoned.state_dict().items()}
        losses = fit(model, pairs(tmp_path))
        assert losses[-1] < losses[0]
        assert equal(model.poisoned.state_dict(), before)
        assert not equal(model.towers.state_dict(), model.poisoned.towers.state_dict())


class TestPoisonedModel:
    def test_embeds_as_the_model_did_and_stays_as_it_was(self, poisoned: dict[str, Any]) -> None:
        model = CLIP(**poisoned)
        frozen = PoisonedModel(model)
        image = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE)
        tokens = torch.randint(1, 49_000, (3, CONTEXT_LENGTH))
        expected = model.encode_image(image), model.encode_text(tokens)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        assert torch.allclose(frozen.encode_image(image), expected[0], atol=1e-6)
        assert torch.allclose(frozen.encode_text(tokens), expected[1], atol=1e-6)

    def test_does_not_go_into_training_mode(self, poisoned: dict[str, Any]) -> None:
        holder = nn.ModuleList([PoisonedModel(CLIP(**poisoned))]).train()
        assert not any(part.training for part in holder[0].modules())


class TestCleanPairs:
    def test_poison_among_them_is_refused_before_training(self, poisoned: dict[str, Any], tmp_path: Path) -> None:
        assert all(getattr(method, 'assumes_clean_pairs', False) for method in METHODS)
        data = pairs(tmp_path, attacks=BADNET, filters={'all': RandomSubset(1.0)})
        with pytest.raises(UsageError, match=r'^3 of the pairs to train on, which should be clean, are poisons of'):
            fit(PAR(**poisoned), data)

    def test_may_be_poisoned_where_the_user_says_so(self, poisoned: dict[str, Any], tmp_path: Path) -> None:
        told = pairs(tmp_path, CleanCLIP, attacks=BADNET, clean_only=False)
        clean = pairs(tmp_path, CleanCLIP, attacks=BADNET, filters={'clean': CleanSubset(16)})
        assert len(fit(CleanCLIP(**poisoned), told)) == len(fit(CleanCLIP(**poisoned), clean)) == 4
