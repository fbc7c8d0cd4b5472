"""Has a run measured at its end, whatever the number of epochs between two evaluations."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback


class LastEvaluation(Callback):
    """Evaluates after the last planned epoch too.

    With ``trainer.check_val_every_n_epoch=5``, Lightning measures a run of 24 epochs for the last time after epoch 20,
    and tables and model cards would show that of weights that nobody has.
    """

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.check_val_every_n_epoch is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1
