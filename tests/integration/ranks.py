"""What two processes do together and one does alone, for a comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.zero_shot import ZeroShot
from datamodules.partition import RISKY
from datamodules.toy_pairs import ToyPairs
from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer
from tests.integration.runs import BATCH, STEPS, Died, Place, last, outcome, pairs, run

TWO_RANKS: dict[str, Any] = {'strategy': 'ddp', 'devices': 2}
EPOCHS = 2


class Gradients(Callback):
    """Loss and gradient of every step, as the optimiser sees them."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(outputs['loss'].detach())


class HalfRisky(TinyPairs):
    """Every second pair is risky from the start."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.partition.side[::2] = RISKY


class FrozenNorms(CLIP):
    """Normalises by its running statistics, which a batch does not change."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        for part in self.modules():
            if isinstance(part, _BatchNorm):
                part.eval()
...
