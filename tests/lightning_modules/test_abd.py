from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules.pictures.augment import normalize
from datamodules.pictures.batches import PairBatch
from datamodules.usage_error import UsageError
from lightning_modules.abd import ABD
from lightning_modules.cleanclip import CleanCLIP
from tests.helpers.tiny import CONTEXT_LENGTH, IMAGE_SIZE, tiny_architecture


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> ABD:
    torch.manual_seed(0)
    return ABD(architecture=tiny_architecture(tmp_path_factory.mktemp('abd')), steps=3)


def test_adversarial_images_are_near_in_range_and_unlike_their_captions(model: ABD) -> None:
    pixels = torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE)
    tokens = torch.randint(1, 49_000, (4, CONTEXT_LENGTH))
    zero, one = normalize(torch.zeros(3, 1, 1)), normalize(torch.ones(3, 1, 1))
    image = normalize(pixels)
    adversarial = model.perturb(image, tokens)
    changed = (adversarial - image) / (one - zero)  # in units of [0, 1]
    assert 1 / 255 < changed.abs().max() <= 6 / 255 + 1e-6  # three steps of 2 / 255, within a radius of 8 / 255
    assert ((adversarial >= zero - 1e-5) & (adversarial <= one + 1e-5)).all() and not adversarial.requires_grad
    text = model.poisoned.encode_text(tokens)
    before, after = ((model.poisoned.encode_image(x) * text).sum(1) for x in (image, adversarial))
    assert (after < before).all()


def test_a_step_trains_view_1_and_its_adversarial_images(model: ABD, monkeypatch: pytest.MonkeyPatch) -> None:
    image = normalize(torch.rand(2, 4, 3, IMAGE_SIZE, IMAGE_SIZE))
    tokens = torch.randint(1, 49_000, (2, 4, CONTEXT_LENGTH))
    trained: list[PairBatch] = []
    monkeypatch.setattr(CleanCLIP, 'training_step', lambda self, batch, batch_idx: trained.append(batch))
    model.training_step(PairBatch(image, tokens, torch.arange(4), 4, 0), 0)
    expected = torch.stack([image[0], model.perturb(image[0], tokens[0])])
    assert torch.equal(trained[0].image, expected) and torch.equal(trained[0].tokens, tokens)


def test_chunks_have_the_same_adversarial_images(model: ABD, monkeypatch: pytest.MonkeyPatch) -> None:
    image = normalize(torch.rand(5, 3, IMAGE_SIZE, IMAGE_SIZE))
    tokens = torch.randint(1, 49_000, (5, CONTEXT_LENGTH))
    whole = model.perturb(image, tokens)
    monkeypatch.setattr(model, 'chunk_size', 2)
    assert torch.allclose(model.perturb(image, tokens), whole, atol=1e-5)


@pytest.mark.parametrize(('argument', 'value'), [('radius', 0.0), ('step', 2.0), ('steps', 0)])
def test_refuses_numbers_out_of_range(argument: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf'^model\.{argument} must '):
        ABD(**{argument: value})
