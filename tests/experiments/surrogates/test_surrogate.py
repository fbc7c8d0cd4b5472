from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.evaluation.sets import EvaluationSet
from datamodules.pictures.augment import SimCLRViews
from experiments.surrogates.surrogate import Surrogate, load_trained
from lightning_modules.clip import CLIP
from tests.helpers.tiny import TinyPairs, set_up, tiny_architecture

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def surrogate(tmp_path_factory: pytest.TempPathFactory) -> Surrogate:
    folder = tmp_path_factory.mktemp('surrogate')
    torch.manual_seed(0)
    model = CLIP(tiny_architecture(folder))
    torch.save({'state_dict': model.state_dict()}, folder / 'some.ckpt')
    data = set_up(TinyPairs(cache_dir=str(folder), eval_batch_size=5))
    return Surrogate(load_trained(model, str(folder / 'some.ckpt'), CPU), data)


class TestTrained:
    def test_refuses_random_weights_in_one_sentence(self, tmp_path: Path) -> None:
        model = CLIP(tiny_architecture(tmp_path))
        with pytest.raises(ValueError, match=r'^random weights tell nothing: give --ckpt_path, .*\.$'):
            load_trained(model, None, CPU)

    def test_names_a_missing_checkpoint(self, tmp_path: Path) -> None:
        model = CLIP(tiny_architecture(tmp_path))
        with pytest.raises(ValueError, match=r"^ckpt_path='last' does not exist"):
            load_trained(model, 'last', CPU)

    def test_loads_and_freezes_the_weights_of_the_checkpoint(self, tmp_path: Path) -> None:
        teacher, model = (CLIP(tiny_architecture(tmp_path)) for _ in range(2))
        gray = {'mean': [0.5] * 3, 'std': [0.5] * 3}
        torch.save({'state_dict': teacher.state_dict(), 'normalization': gray}, tmp_path / 'some.ckpt')
        load_trained(model, str(tmp_path / 'some.ckpt'), CPU)
        own = model.state_dict()
        assert model.normalization.settings == gray
        assert all(torch.equal(weight, own[name]) for name, weight in teacher.state_dict().items())
        assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())

    def test_accepts_open_clip_weights_from_a_file(self, surrogate: Surrogate, tmp_path: Path) -> None:
        torch.save(surrogate.model.towers.state_dict(), tmp_path / 'towers.pt')
        model = CLIP(surrogate.model.architecture, pretrained=str(tmp_path / 'towers.pt'))
        again = Surrogate(load_trained(model, None, CPU), surrogate.data)
        assert again.hash_weights() == surrogate.hash_weights()
        pictures = surrogate.data.images(np.arange(8))
        assert torch.equal(again.embed_pictures(pictures), surrogate.embed_pictures(pictures))
        assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())

    def test_accepts_a_trained_model_as_it_is(self, surrogate: Surrogate) -> None:
        surrogate.model.untrained = False
        assert load_trained(surrogate.model, None, CPU) is surrogate.model


class TestSurrogate:
    def test_classifies_as_the_model_does_in_validation(self, surrogate: Surrogate) -> None:
        model, data = surrogate.model, surrogate.data
        model.classifiers = [model.classifier(tokens) for tokens in data.prompt_tokens()]
        batches = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()[0]]
        expected = torch.cat([model.validation_step(batch, 0)['logits'].argmax(-1) for batch in batches])
        assert torch.equal(model.classifiers[0], surrogate.classifier)
        assert surrogate.classify(data.evaluation_sets[0].images).tolist() == expected.tolist()

    def test_success_is_the_share_taken_for_the_target(self, surrogate: Surrogate) -> None:
        pictures = surrogate.data.images(np.arange(8))
        target = surrogate.classify(pictures)
        target[:2] = (target[:2] + 1) % 4
        test = EvaluationSet('x', pictures, np.zeros(8, int), target, surrogate.data.classes, ('a {}',))
        assert surrogate.measure_success(test) == 0.75

    def test_embeds_any_number_of_pictures(self, surrogate: Surrogate) -> None:
        pictures = surrogate.data.images(np.arange(12))
        embeddings = surrogate.embed_pictures(pictures)
        assert torch.allclose(embeddings, surrogate.embed(surrogate.pixels(pictures)), atol=1e-6)
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(12))

    def test_views_are_those_of_the_epoch_and_the_row(self, surrogate: Surrogate) -> None:
        pixels, rows = surrogate.pixels(surrogate.data.images(np.arange(6))), torch.arange(6)
        first, again, other = (surrogate.embed(pixels, SimCLRViews(), rows, epoch) for epoch in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, atol=1e-3)

    @pytest.mark.parametrize('views', [None, SimCLRViews(crop_scale=(0.6, 1.0))], ids=['clean', 'augmented'])
    def test_the_gradient_reaches_the_pixels(self, surrogate: Surrogate, views: SimCLRViews | None) -> None:
        pixels = surrogate.pixels(surrogate.data.images(np.arange(4))).mul(0.6).add(0.2).requires_grad_()
        aim, rows = surrogate.classifier[1], torch.arange(4)

        def likeness(x: torch.Tensor) -> torch.Tensor:
            return (surrogate.embed(x, views, rows, 0) @ aim).sum()

        (slope,) = torch.autograd.grad(likeness(pixels), pixels)
        step = 1e-2 * slope / slope.norm()
        risen = (likeness(pixels.detach() + step) - likeness(pixels.detach() - step)).item()
        assert risen == pytest.approx(2e-2 * slope.norm().item(), rel=0.05)

    def test_its_hash_depends_on_the_weights(self, surrogate: Surrogate) -> None:
        before = surrogate.hash_weights()
        assert surrogate.hash_weights() == before and len(before) == 64
        with torch.no_grad():
            surrogate.model.towers.logit_scale.add_(0.5)
        assert surrogate.hash_weights() != before
