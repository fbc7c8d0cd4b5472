"""The mean and standard deviation of the channels that a model expects, where they are not those of CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from datamodules.usage_error import UsageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images (Radford et al., 2021)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_pixels(image: Tensor) -> Tensor:
    """Images in [0, 1] of those that are normalized as CLIP's own, (..., 3, H, W)."""
    mean, std = _channels(image)
    return (image * std + mean).clamp(0, 1)


def from_pixels(pixels: Tensor) -> Tensor:
    """Normalizes images in [0, 1] as CLIP's own, (..., 3, H, W)."""
    mean, std = _channels(pixels)
    return (pixels - mean) / std


def _channels(image: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (image.new_tensor(channels).view(3, 1, 1) for channels in (CLIP_MEAN, CLIP_STD))
    return mean, std


class Normalization(nn.Module):
    """Turns images that are normalized as CLIP's, as the datamodules give them, into those that a model expects.

    Args:
        mean: Mean of each channel that the model expects, of values in [0, 1].
        std: Standard deviation of each channel.

    Attributes:
        settings: The same, as a checkpoint keeps them; empty if they are CLIP's.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or not all(deviation > 0 for deviation in std):
            raise UsageError(f'model.architecture has mean={mean} and std={std}, not three of each, std above 0.')
        is_clips = (*mean,) == CLIP_MEAN and (*std,) == CLIP_STD
        self.settings = {} if is_clips else {'mean': list(mean), 'std': list(std)}
        given, wanted = (torch.tensor(pair).view(2, 3, 1, 1) for pair in ((CLIP_MEAN, CLIP_STD), (mean, std)))
        self.register_buffer('scale', given[1] / wanted[1], persistent=False)
        self.register_buffer('shift', (given[0] - wanted[0]) / wanted[1], persistent=False)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Normalization:
        """That of a model's preprocessing settings, or of a checkpoint's; CLIP's where they name none."""
        return cls(settings.get('mean') or CLIP_MEAN, settings.get('std') or CLIP_STD)

    @classmethod
    def published(cls, architecture: str) -> Normalization:
        """That of the weights that open_clip offers for a model, which a file of weights does not say.

        CLIP's if there are none, or if they differ; what was chosen is logged unless all have CLIP's.
        """
        import open_clip  # takes seconds

        architecture = architecture.replace('/', '-')  # both are open_clip's names
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        found = {_key(cls.of(open_clip.get_pretrained_cfg(architecture, tag))) for tag in tags}
        chosen = cls(*found.pop()) if len(found) == 1 else cls()
        if found:
            rank_zero_info(f'pictures are normalized as for CLIP, but some weights of {architecture} expect otherwise.')
        elif chosen.settings:
            rank_zero_info(f'pictures are normalized as open_clip does for {architecture}: {chosen.settings}.')
        return chosen

    def forward(self, image: Tensor) -> Tensor:
        return torch.addcmul(self.shift, image, self.scale) if self.settings else image


def _key(normalization: Normalization) -> tuple[tuple[float, ...], tuple[float, ...]]:
    settings = normalization.settings
    return tuple(settings.get('mean', CLIP_MEAN)), tuple(settings.get('std', CLIP_STD))
