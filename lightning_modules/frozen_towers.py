"""Towers that stay as they are while the rest of a model is fine-tuned."""

from __future__ import annotations

from typing import Literal

from torch import nn

from datamodules.usage_error import UsageError

Frozen = Literal['image', 'text', 'both']
TEMPERATURE = ('logit_scale', 'logit_bias')  # belongs to neither tower
PROJECTIONS = ('proj', 'head', 'attnpool.c_proj', 'text_projection')  # in a tower of open_clip


def freeze(towers: nn.Module, frozen: Frozen) -> None:
    """Freezes the weights of one tower or of both, but for the projections from which embeddings come.

    open_clip's own locking cannot leave out the projection of a ResNet or of a text tower, and it replaces batch norms
    by others, whose checkpoints other models could not read.

    Args:
        towers: An open_clip model.
        frozen: Which towers.

    Raises:
        UsageError: If no weight of either tower would be left to train.
    """
    for name, weight in towers.named_parameters():
        if is_of(frozen, name) and not is_projection(name):
            weight.requires_grad_(False)
    if not any(weight.requires_grad for name, weight in towers.named_parameters() if name not in TEMPERATURE):
        raise UsageError(
            f'model.frozen={frozen} leaves nothing to train, because the towers of this model.architecture have no '
            f'projections: freeze one of them alone.'
        )
    stop_statistics(towers, frozen)


def stop_statistics(towers: nn.Module, frozen: Frozen) -> None:
    """Puts frozen towers into evaluation mode, in which batch norms keep their statistics and nothing is dropped."""
    for name, part in towers.named_modules():
        if name and is_of(frozen, name):
            part.training = False


def is_of(frozen: Frozen, name: str) -> bool:
    """Whether a weight or a part of an open_clip model belongs to a frozen tower.

    Example:
        >>> is_of('image', 'visual.conv1.weight'), is_of('text', 'ln_final.weight'), is_of('both', 'logit_scale')
        (True, True, False)
    """
    if name in TEMPERATURE:
        return False
    return frozen in ('both', 'image' if _is_of_image(name) else 'text')


def is_projection(name: str) -> bool:
    """Whether a weight of an open_clip model is that of a projection into the space that both towers share.

    Example:
        >>> [is_projection(name) for name in ('visual.proj', 'visual.attnpool.c_proj.bias', 'text.text_projection')]
        [True, True, True]
        >>> is_projection('visual.transformer.resblocks.0.attn.out_proj.weight')
        False
    """
    part = name.removeprefix('visual.' if _is_of_image(name) else 'text.')
    return any(part == projection or part.startswith(f'{projection}.') for projection in PROJECTIONS)


def _is_of_image(name: str) -> bool:
    return name == 'visual' or name.startswith('visual.')
