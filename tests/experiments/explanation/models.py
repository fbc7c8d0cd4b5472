"""Small models to look into."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_modules.clip import CLIP
from tests.helpers.tiny import write_json


def tiny_resnet(folder: Path) -> CLIP:
    """A CLIP of one ResNet block a stage for pictures of 64 pixels, frozen."""
    vision = {'image_size': 64, 'layers': [1, 1, 1, 1], 'width': 8, 'head_width': 32}
    text = {'context_length': 8, 'vocab_size': 49408, 'width': 8, 'heads': 2, 'layers': 1}
    torch.manual_seed(1)
    model = CLIP(write_json(folder / 'looking.json', {'embed_dim': 8, 'vision_cfg': vision, 'text_cfg': text}))
    return model.eval().requires_grad_(False)


class MeanColor(nn.Module):
    """Embeds a picture as its mean color; its last block has a channel for each color.

    Attributes:
        towers: Has the block where that of a ResNet is.
        image_size: Side of a picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block, self.image_size = nn.Sequential(nn.AvgPool2d(32)), 224
        self.towers: Any = SimpleNamespace(visual=SimpleNamespace(layer4=self.block))

    def encode_image(self, image: Tensor) -> Tensor:
        return normalize(self.block(image).mean((2, 3)), dim=-1)
