"""Stops a run that has diverged at its first loss that is not a finite number, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn, cast

import lightning as L
import torch
from torch import Tensor

from datamodules.usage_error import UsageError

STEPS_AT_ONCE = 50  # looked at together where nothing is logged


class Step(NamedTuple):
    """A training step.

    Attributes:
        loss: Its loss, scalar, on the device.
        number: Optimizer steps before it, as in the log.
        epoch: Its epoch, counted from 0.
        lr: Learning rate that it was taken with.
    """

    loss: Tensor
    number: int
    epoch: int
    lr: float


class DivergenceWatch:
    """Remembers the losses of the latest steps, and looks at them together: looking at each would wait for the device.

    Attributes:
        steps: Steps that were not looked at yet.
        latest: The latest step; ``None`` before the first.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.latest: Step | None = None

    def add(self, loss: Tensor, trainer: L.Trainer) -> None:
        """Remembers the step that is being taken."""
        lr = trainer.optimizers[0].param_groups[0]['lr']
        self.latest = Step(loss.detach(), trainer.global_step, trainer.current_epoch, lr)
        self.steps.append(self.latest)

    def is_due(self, trainer: L.Trainer) -> bool:
        """Whether to look at the losses now, where the logger waits for the device anyway."""
        every: int = cast(Any, trainer).log_every_n_steps  # set by Lightning without being declared
        return len(self.steps) >= (every or STEPS_AT_ONCE)

    def check_losses(self, trainer: L.Trainer) -> None:
        """Looks at the remembered losses.

        Raises:
            UsageError: On all ranks, if one is not finite on any of them.
        """
        if not self.steps:
            return
        finite = _on_all_ranks(torch.stack([step.loss for step in self.steps]).isfinite(), trainer)
        for step, is_finite in zip(self.steps, finite, strict=True):
            if not is_finite:
                _stop('the loss is not a finite number at', step, trainer)
        self.steps = []

    def check(self, trainer: L.Trainer, tensors: Iterable[Tensor]) -> None:
        """Looks at the remembered losses and at the weights that the latest step left behind.

        Args:
            trainer: The trainer.
            tensors: The weights.

        Raises:
            UsageError: On all ranks, if a loss or a weight is not finite on any of them.
        """
        self.check_losses(trainer)
        finite = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
        if self.latest is not None and not all(_on_all_ranks(torch.stack(finite), trainer)):
            _stop('weights are not finite numbers after', self.latest, trainer)


def _on_all_ranks(finite: Tensor, trainer: L.Trainer) -> list[bool]:
    agreed: Tensor = trainer.strategy.reduce(finite.int(), reduce_op='min')
    return agreed.bool().tolist()


def _stop(what: str, step: Step, trainer: L.Trainer) -> NoReturn:
    # A module that steps by itself, as MEM does, has no warm-up here, and Lightning refuses to clip its gradients.
    others = 'raise model.warmup_steps, set trainer.gradient_clip_val=1, '
    others *= trainer.lightning_module.automatic_optimization
    raise UsageError(
        f'training has diverged: {what} step {step.number} (epoch {step.epoch + 1}, learning rate {step.lr:.3g}): '
        f'lower model.lr, {others}or take another trainer.precision.'
    )
