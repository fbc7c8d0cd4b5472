from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from lightning_modules.frozen_towers import Frozen, freeze, is_projection
from lightning_modules.supervised import SupervisedFinetuning
from lightning_modules.unlearnable import EM
from tests.helpers.tiny import CONTEXT_LENGTH, TinyPairs, tiny_architecture, trainer, write_json

pytestmark = pytest.mark.filterwarnings('ignore:.*in eval mode')  # frozen towers are
TEXT = {'context_length': CONTEXT_LENGTH, 'vocab_size': 49408, 'width': 8, 'heads': 2, 'layers': 1}


@pytest.fixture(scope='module')
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A ResNet whose name is known to open_clip, and a checkpoint of it."""
    folder = tmp_path_factory.mktemp('resnet')
    vision = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 4, 'head_width': 16}
    path = write_json(folder / 'to_freeze.json', {'embed_dim': 8, 'vision_cfg': vision, 'text_cfg': TEXT})
    torch.manual_seed(0)
    torch.save({'state_dict': CLIP(path).state_dict()}, folder / 'first.ckpt')
    return path, str(folder / 'first.ckpt')


def frozen_model(resnet: tuple[str, str], frozen: Frozen | None, kind: type[CLIP] = CLIP, **kwargs: Any) -> CLIP:
    path, first = resnet
    return kind(architecture=path, init_from=first, frozen=frozen, **{'lr': 1e-2, 'warmup_steps': 0, **kwargs})


def pairs(folder: Path) -> TinyPairs:
    return TinyPairs(cache_dir=str(folder / 'cache'))


def weights(model: CLIP) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.towers.state_dict().items()}


def changed(before: dict[str, Tensor], model: CLIP) -> set[str]:
    return {name for name, value in model.towers.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize('frozen', ['image', 'text', 'both'])
def test_a_frozen_tower_keeps_all_but_its_projection(frozen: Frozen, resnet: tuple[str, str], tmp_path: Path) -> None:
    model = frozen_model(resnet, frozen, weight_decay=0.5)
    before = weights(model)
    trainer(max_epochs=2).fit(model, pairs(tmp_path))
    is_image = {name: name.startswith('visual.') for name in before}
    of_frozen = {name for name in before if frozen in ('both', 'image' if is_image[name] else 'text')}
    kept = {name for name in of_frozen - {'logit_scale'} if not is_projection(name)}
    assert any('running_mean' in name for name in kept) == (frozen != 'text')
    after = changed(before, model)
    assert not after & kept
    assert {'visual.attnpool.c_proj.weight', 'text_projection', 'logit_scale'} <= after
    assert ('visual.conv1.weight' in after) == (frozen == 'text')
    assert ('ln_final.weight' in after) == (frozen == 'image')


def test_evaluation_leaves_a_frozen_tower_in_evaluation_mode(resnet: tuple[str, str]) -> None:
    model = frozen_model(resnet, 'image')
    model.eval().train()
    norms = [part for part in model.towers.visual.modules() if isinstance(part, _BatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    assert model.towers.transformer.training


def test_a_surrogate_keeps_its_frozen_tower(resnet: tuple[str, str], tmp_path: Path) -> None:
    model = frozen_model(resnet, 'image', EM, surrogate_steps=2, noise_steps=1, store=str(tmp_path / 'noise'))
    before = weights(model)
    data = TinyPairs(heldout_rows=0, class_names=['cat'], cache_dir=str(tmp_path / 'cache'))
    trainer(max_epochs=1).fit(model, data)
    after = changed(before, model)
    assert 'ln_final.weight' in after and not any('running' in name for name in after)


class TestResume:
    def test_ends_with_the_same_weights(self, resnet: tuple[str, str], tmp_path: Path) -> None:
        whole = frozen_model(resnet, 'image')
        trainer(max_epochs=2).fit(whole, pairs(tmp_path))
        resumed = frozen_model(resnet, 'image')
        trainer(max_epochs=2).fit(resumed, pairs(tmp_path), ckpt_path=self.after_one_epoch(resnet, tmp_path))
        assert not changed(weights(whole), resumed)

    @pytest.mark.parametrize(('frozen', 'name'), [('text', 'text'), (None, 'null')])
    def test_refuses_to_freeze_another_tower(
        self, frozen: Frozen | None, name: str, resnet: tuple[str, str], tmp_path: Path
    ) -> None:
        path = self.after_one_epoch(resnet, tmp_path)
        with pytest.raises(UsageError, match=f'with model.frozen=image, not {name}: resume with that'):
            trainer(max_epochs=2).fit(frozen_model(resnet, frozen), pairs(tmp_path), ckpt_path=path)

    def test_any_tower_can_be_evaluated(self, resnet: tuple[str, str], tmp_path: Path) -> None:
        path = self.after_one_epoch(resnet, tmp_path)
        model = frozen_model(resnet, None)
        trainer().validate(model, pairs(tmp_path), ckpt_path=path, verbose=False)
        saved = torch.load(path, weights_only=True)['state_dict']
        assert all(torch.equal(weight, saved[name]) for name, weight in model.state_dict().items())

    @staticmethod
    def after_one_epoch(resnet: tuple[str, str], folder: Path) -> str:
        run = StopsAfterOne(folder / 'one.ckpt')
        trainer(max_epochs=2, callbacks=[run]).fit(frozen_model(resnet, 'image'), pairs(folder))
        return str(run.path)


class StopsAfterOne(L.Callback):
    """Ends a run of two epochs after the first, with a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.path)
        trainer.should_stop = True


class TestRefused:
    def test_random_weights(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match='frozen=image would keep random weights: name trained ones with'):
            CLIP(tiny_architecture(tmp_path), frozen='image')

    def test_nothing_to_train(self) -> None:
        towers = nn.ModuleDict({'visual': nn.Linear(2, 2), 'transformer': nn.Linear(2, 2)})
        freeze(towers, 'image')
        with pytest.raises(UsageError, match='frozen=both leaves nothing to train'):
            freeze(towers, 'both')

    def test_a_method_that_trains_one_tower(self, resnet: tuple[str, str]) -> None:
        with pytest.raises(UsageError, match='no effect on SupervisedFinetuning'):
            frozen_model(resnet, 'text', SupervisedFinetuning)


def test_finds_the_projections_of_open_clips_towers(tmp_path: Path) -> None:
    timm = {'image_size': 32, 'timm_model_name': 'resnet18', 'timm_pool': '', 'timm_proj': 'linear'}
    path = write_json(tmp_path / 'with_timm.json', {'embed_dim': 8, 'vision_cfg': timm, 'text_cfg': TEXT})
    for architecture in (tiny_architecture(tmp_path, 'with_vit'), path):
        names = [name for name, _ in CLIP(architecture).towers.named_parameters() if is_projection(name)]
        assert {name.startswith('visual.') for name in names} == {True, False}
