"""Activations that are computed again in the backward pass instead of being kept (Chen et al., 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function now, and again in the backward pass for the activations that gradients need.

    The backward pass must run under :func:`frozen_statistics`. Without gradients this is a plain call.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Normalizes by the statistics of each batch, as training does, without recording them.

    What is computed a second time would otherwise count twice in the running statistics of batch normalization.
    """
    norms = [part for part in module.modules() if isinstance(part, _NormBase) and part.training]
    momenta = [norm.momentum for norm in norms]
    counted = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    counts = [count.clone() for count in counted]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, before in zip(counted, counts, strict=True):
            count.copy_(before)


def recompute_towers(towers: Any) -> None:
    """Makes both towers of an open_clip model recompute the activations of each block.

    open_clip does it for transformers. For its ResNets it does nothing, so their blocks are wrapped here.
    """
    towers.set_grad_checkpointing(True)
    for block in _residual_blocks(towers.visual):
        block.forward = partial(recompute, type(block).forward, block)  # which a copy of the block takes along


def _residual_blocks(visual: nn.Module) -> list[Any]:
    from open_clip.modified_resnet import Bottleneck  # takes seconds to import

    return [module for module in visual.modules() if isinstance(module, Bottleneck)]
