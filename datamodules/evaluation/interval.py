"""How often a model is evaluated within an epoch."""

from __future__ import annotations

from typing import Any

from datamodules.usage_error import UsageError


def check_evaluation_interval(trainer: Any, steps_per_epoch: int) -> None:
    """Refuses an interval that is longer than an epoch; Lightning would, with a traceback, when training begins.

    Args:
        trainer: Lightning's trainer.
        steps_per_epoch: Batches of an epoch without the trainer's limit.

    Raises:
        UsageError: If evaluation is counted within epochs, and no epoch has as many batches.
    """
    limit, interval = trainer.limit_train_batches, trainer.val_check_interval
    steps = min(limit, steps_per_epoch) if isinstance(limit, int) else int(limit * steps_per_epoch)
    if not isinstance(interval, int) or trainer.check_val_every_n_epoch is None or not trainer.limit_val_batches:
        return
    if interval > steps:
        raise UsageError(
            f'trainer.val_check_interval={interval} is larger than the {steps} batches of an epoch: lower it, or set '
            f'trainer.check_val_every_n_epoch=null to count batches across epochs.'
        )
