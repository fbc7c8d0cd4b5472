"""Refuses to train when the processes of a run would not train on the same pairs, or go on from the same checkpoint."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import lightning as L
from lightning.pytorch.callbacks import Callback

from datamodules.pairs import PairsDataModule
from datamodules.usage_error import UsageError
from experiments.process_watch import gather


class View(NamedTuple):
    """What a process sees.

    Attributes:
        host: Name of its machine.
        pairs: Digest of the pairs.
        checkpoint: Path of the checkpoint that it resumes from.
    """

    host: str
    pairs: str
    checkpoint: str | None


class Agreement(Callback):
    """Compares what all processes see, once the data is there.

    Each process draws its share of a batch by itself, so that rows of different tables would be mixed without a word.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            data = cast(PairsDataModule, cast(Any, trainer).datamodule)
            checkpoint = None if trainer.ckpt_path is None else str(trainer.ckpt_path)
            check_agreement(gather(View(socket.gethostname(), data.digest, checkpoint)))


def check_agreement(views: Sequence[View]) -> None:
    """Compares what processes see, given in the order of their ranks.

    Raises:
        UsageError: If they do not see the same.
    """
    first = views[0]
    for rank, view in enumerate(views):
        who = f'process {rank} on {view.host}'
        if view.pairs != first.pairs:
            raise UsageError(
                f'data: {who} does not read the same pairs as process 0 on {first.host}: give every machine the same '
                f'files and settings.'
            )
        if view.checkpoint != first.checkpoint:
            raise UsageError(
                f'ckpt_path: {who} finds {view.checkpoint}, and process 0 on {first.host} finds {first.checkpoint}: '
                f'keep trainer.default_root_dir where every machine sees the same files.'
            )
