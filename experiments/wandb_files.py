"""What W&B is given of a run beside its metrics: poisons and suspects with pictures, and the files about pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import pyarrow.compute as pc
from lightning.pytorch.callbacks import Callback
from PIL import Image

from callbacks.figures import poisoned_pairs
from callbacks.harmless import Harmless
from callbacks.ledger import FILE as LEDGER
from callbacks.ledger import P_VALUE, read_ledger
from datamodules.contracts import Truth, truth_of
from experiments.run_results import MANIFEST
from experiments.wandb_run import WandbRun, wandb_runs

if TYPE_CHECKING:
    import wandb

POISONS = ('attack', 'target', 'caption', 'picture')
SUSPECTS = ('row', 'key', 'caption', 'similarity', P_VALUE, 'side', 'attack', 'picture')
POISONS_OF_EACH, SUSPECTS_SHOWN = 8, 32
SIDE = 96  # pixels of a thumbnail, at most


class WandbFiles(Callback):
    """Gives W&B the tables ``poisons`` and ``suspects``, and manifest and ledger as artifacts.

    ``poisons`` are some poisoned pairs of each attack, logged when training starts; ``suspects`` the least similar
    pairs of the last ledger, logged when it ends, with the attack behind each, which no defense sees.
    """

    def __init__(self) -> None:
        self.harmless = Harmless('logging tables and files to W&B')

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch:  # resumed
            return
        for logger in _takers(trainer):
            with self.harmless:
                if rows := poison_rows(truth_of(trainer)):
                    logger.log_table('poisons', [*POISONS], rows, step=trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir  # a collective call, so all ranks make it
        for logger in _takers(trainer) if folder else ():
            with self.harmless:
                ledger = Path(str(folder), LEDGER)
                if ledger.exists():
                    rows = suspect_rows(truth_of(trainer), ledger)
                    logger.log_table('suspects', [*SUSPECTS], rows, step=trainer.global_step)
                for file in filter(Path.exists, (Path(str(folder), MANIFEST), ledger)):
                    _log_artifact(logger, file)


def _takers(trainer: L.Trainer) -> list[WandbRun]:
    """Loggers that are to get data; none on all ranks but 0."""
    return [logger for logger in wandb_runs(trainer) if logger.log_data and trainer.is_global_zero]


def poison_rows(data: Truth) -> list[list[Any]]:
    """Rows of the table ``poisons``; none if nothing is poisoned."""
    return [
        [attack, pair.target, pair.caption, _thumbnail(pair.image)]
        for attack in data.manifest.attacks
        for pair in poisoned_pairs(data, attack, POISONS_OF_EACH)
    ]


def suspect_rows(data: Truth, ledger: Path) -> list[list[Any]]:
    """Rows of the table ``suspects``: the least similar pairs of a ledger, the very least first."""
    similarity = read_ledger(ledger, ['similarity'])['similarity']
    order = pc.bottom_k_unstable(pc.fill_null(similarity, np.inf), SUSPECTS_SHOWN).to_pylist()
    lines = {line['row']: line for line in read_ledger(ledger, rows=order).to_pylist()}
    found = [lines[row] for row in order if lines[row]['similarity'] is not None]
    attack_of = {row: attack for attack in data.manifest.attacks for row in data.manifest.rows(attack).tolist()}
    pictures = data.images(np.array([line['row'] for line in found], np.int64))
    return [
        [*map({'attack': attack_of.get(line['row'], ''), **line}.get, SUSPECTS[:-1]), _thumbnail(picture)]
        for line, picture in zip(found, pictures, strict=True)
    ]


def _thumbnail(picture: np.ndarray) -> wandb.Image:
    """A picture, uint8 (3, h, w), as W&B shows it in a table."""
    import wandb

    small = Image.fromarray(picture.transpose(1, 2, 0))
    small.thumbnail((SIDE, SIDE))
    return wandb.Image(small)


def _log_artifact(logger: WandbRun, file: Path) -> None:
    import wandb

    artifact = wandb.Artifact(f'{file.stem}-{logger.experiment.id}', type=file.stem)
    artifact.add_file(str(file), policy='immutable')  # else offline it would be copied into the user's home
    logger.experiment.log_artifact(artifact)
