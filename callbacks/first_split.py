"""Ends a run at its first split, for tables of what a warm-up and a split let through."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from datamodules.contracts import pairs_of


class EndAtFirstSplit(EarlyStopping):
    """Ends a run as soon as its first split is made and measured.

    The epochs before it have the learning rates of the whole run, which a smaller ``trainer.max_epochs`` would change.
    """

    def __init__(self) -> None:
        # Lightning runs callbacks of this class after all others but checkpoints, so the split is known and kept.
        super().__init__(
            'partition/share', mode='max', stopping_threshold=0.0, strict=False, check_on_train_epoch_end=True
        )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pairs_of(trainer).partition.scored_after is not None:  # resumed after the split
            trainer.should_stop = True
