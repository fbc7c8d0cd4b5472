"""Measurements of their own with each evaluation, on data that Lightning has no loader of."""

from __future__ import annotations

from abc import ABC, abstractmethod

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.measuring import measuring


def is_left_out(trainer: L.Trainer) -> bool:
    """Whether an evaluation would follow this epoch of ``fit``, if the data had any evaluation set."""
    is_due = trainer.enable_validation and (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
    return is_due and not sum(trainer.num_val_batches)


class AtEvaluation(Callback, ABC):
    """Logs what :meth:`measure` returns at each evaluation of ``fit``, in ``validate`` and in ``test``.

    Lightning leaves out the evaluation of data without evaluation sets. It is measured at the same epochs all the same.
    """

    @abstractmethod
    def measure(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """Metrics by name, the same on all processes. The model is in evaluation mode, without gradients."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if is_left_out(trainer):
            with measuring(trainer, pl_module):
                self.on_validation_epoch_end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log_dict(self.measure(trainer, pl_module), sync_dist=True)  # equal on all ranks

    on_test_epoch_end = on_validation_epoch_end

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # The same is left out of `validate` and `test`, where no other hook has the weights of the checkpoint.
        batches = {'validate': trainer.num_val_batches, 'test': trainer.num_test_batches}.get(stage, [1])
        if sum(batches):
            return
        with measuring(trainer, pl_module.to(trainer.strategy.root_device)):
            metrics = self.measure(trainer, pl_module)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers if metrics else ():
            logger.log_metrics({'epoch': trainer.current_epoch, **metrics}, trainer.global_step)
