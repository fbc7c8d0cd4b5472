from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.usage_error import UsageError
from experiments.explanation.grad_cam import block_to_look_at, grad_cam
from lightning_modules.clip import CLIP
from tests.experiments.explanation.models import MeanColor, tiny_resnet
from tests.helpers.tiny import tiny_architecture, unit_rows


def pictures(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_only_the_quadrant_with_the_color_of_the_caption_is_hot() -> None:
    blue_with_red_corner = torch.zeros(1, 3, 224, 224)
    blue_with_red_corner[:, 2] = 1
    blue_with_red_corner[:, :, :96, 128:] = torch.tensor([1.0, 0, 0])[:, None, None]
    red = torch.tensor([[1.0, 0, 0]])
    heat, cosine = grad_cam(cast(CLIP, MeanColor()), blue_with_red_corner, red)
    expected = torch.zeros(1, 7, 7, dtype=torch.bool)
    expected[:, :3, 4:] = True
    assert torch.equal(heat > 0, expected)
    assert cosine.item() == pytest.approx(9 / (9**2 + 40**2) ** 0.5)


def test_equals_that_of_captum_on_a_resnet(tmp_path: Path) -> None:
    attr: Any = pytest.importorskip('captum.attr')
    model, image, text = tiny_resnet(tmp_path), pictures(3, 64), unit_rows(3, 8, seed=1).float()

    def cosine(image: Tensor) -> Tensor:
        return (model.encode_image(image) * text).sum(-1)

    layer = attr.LayerGradCam(cosine, model.towers.visual.layer4[-1])
    expected = layer.attribute(image.clone().requires_grad_(), relu_attributions=True)[:, 0].detach()
    heat, similarity = grad_cam(model, image, text)
    assert heat.shape == (3, 2, 2) and heat.any()
    assert torch.allclose(heat, expected, atol=1e-7)
    assert torch.allclose(similarity, cosine(image))


def test_each_picture_of_a_batch_has_its_own_map(tmp_path: Path) -> None:
    model, image, text = tiny_resnet(tmp_path), pictures(3, 64), unit_rows(3, 8, seed=1).float()
    pairs = zip(image.split(1), text.split(1), strict=True)
    alone = torch.cat([grad_cam(model, *pair).heat for pair in pairs])
    assert torch.allclose(grad_cam(model, image, text).heat, alone, atol=1e-6)


def test_a_transformer_has_a_cell_for_each_patch(tmp_path: Path) -> None:
    model = CLIP(tiny_architecture(tmp_path, 'looking_patches', image_size=16)).eval().requires_grad_(False)
    image, text = pictures(4, 16), unit_rows(4, 8, seed=1).float()
    heat = grad_cam(model, image, normalize(text, dim=-1)).heat
    assert heat.shape == (4, 4, 4) and heat.any() and heat.isfinite().all()
    block, to_maps = block_to_look_at(model.towers.visual, 16)
    numbered = torch.arange(17.0)[None, :, None]  # 0 is the class token
    assert torch.equal(to_maps(numbered)[0, 0], 1 + torch.arange(16.0).view(4, 4))
    assert block is model.towers.visual.transformer.resblocks[-1].ln_1


@pytest.mark.parametrize(('size', 'stage'), [(224, 4), (64, 4), (32, 3), (16, 2), (4, 1)])
def test_small_pictures_are_looked_at_before_a_single_cell_is_left(size: int, stage: int) -> None:
    visual = SimpleNamespace(**{f'layer{number}': [number] for number in (1, 2, 3, 4)})
    assert block_to_look_at(visual, size)[0] == stage


def test_other_towers_are_refused() -> None:
    with pytest.raises(UsageError, match=r'the image tower of this model\.architecture is a Linear'):
        block_to_look_at(torch.nn.Linear(1, 1), 224)
