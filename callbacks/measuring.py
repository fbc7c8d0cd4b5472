"""Leaves training as it was while a callback runs the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def measuring(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Evaluation mode without gradients, in the training precision; restores modes and random states afterwards."""
    agree_on_batch_norm(trainer, module)
    # no_grad, not inference_mode: tensors made here (pools, prototypes) may enter a training step later
    with torch.no_grad(), isolate_rng(), evaluating(module), trainer.strategy.precision_plugin.forward_context():
        yield


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Sets evaluation mode; afterwards restores each submodule's own mode, as frozen ones may differ from the rest."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def agree_on_batch_norm(trainer: L.Trainer, module: torch.nn.Module) -> None:
    """Gives all ranks the batch norm statistics of rank 0.

    DDP synchronizes them only at the start of a training step, so after the last step of an epoch each rank would
    embed the same picture differently.
    """
    if trainer.world_size == 1:
        return
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            for buffer in part.buffers(recurse=False):
                torch.distributed.broadcast(buffer, 0)
