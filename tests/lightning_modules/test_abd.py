from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules.pictures.augment import normalize
from datamodules.usage_error import UsageError
from lightning_modules.abd import ABD
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


@pytest.mark.parametrize(('argument', 'value'), [('radius', 0.0), ('step', 2.0), ('steps', 0)])
def test_refuses_numbers_out_of_range(argument: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf'^model\.{argument} must '):
        ABD(**{argument: value})
