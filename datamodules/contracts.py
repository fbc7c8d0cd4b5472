"""What data promises to those that train on it, and what only those may ask for who know the truth."""

from __future__ import annotations

from typing import Any, Protocol, cast

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.attacks.manifest import Manifest
from datamodules.evaluation.sets import EvaluationSet
from datamodules.pictures.batches import CLEAN, OverlaidPictures, PairBatch
from datamodules.rows.partition import Partition
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError


class Pairs(Protocol):
    """All that a defense may hold of the training pairs: numbered rows, without their origin or the truth about them.

    Attributes:
        partition: The side of every pair, which the defense sets; its length is the number N of pairs.
        batch_size: Pairs in a batch over all processes.
    """

    partition: Partition
    batch_size: int

    def sweep_dataloader(
        self, epoch: int = CLEAN, rows: np.ndarray | None = None, views: int = 1
    ) -> DataLoader[PairBatch]:
        """This process's share of the pairs that are not dropped, or of some rows, in order.

        Args:
            epoch: Epoch whose augmented views are read; ``CLEAN`` for pairs as they are.
            rows: Rows to read, ascending, int64; all if ``None``.
            views: Views of each pair.
        """

    def picture_hashes(self) -> np.ndarray:
        """A number for each row's stored picture, int64 (N,), equal for equal pixels."""


class Prompts(Protocol):
    """What a zero-shot classifier is made from."""

    def prompt_tokens(self) -> list[torch.Tensor]:
        """Tokens of the prompts of each evaluation set, int64 (C, P, T)."""


class Truth(Protocol):
    """What metrics, the ledger, figures and audits may ask for; a defense that did would prove nothing.

    Attributes:
        manifest: Which rows are poisoned, by which attack.
        evaluation_sets: Labeled and triggered pictures, in the order of the validation loaders.
        classes: Class names that the zero-shot classifier answers with.
        table: Captions and image references of every row; references tell where a picture comes from.
        images: Reads stored pictures by row.
        partition: The split that is measured.
        heldout: Captions and image references of the held-out pairs, if there are any.
    """

    manifest: Manifest
    evaluation_sets: list[EvaluationSet]
    table: PairTable
    images: OverlaidPictures
    partition: Partition

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def heldout(self) -> PairTable | None: ...

    def heldout_dataloader(self) -> DataLoader[PairBatch]:
        """This process's share of the held-out pairs, in order; the rows of its batches are those of ``heldout``.

        Raises:
            UsageError: If no pairs are held out.
        """


def pairs_of(trainer: L.Trainer) -> Pairs:
    """The training pairs of a run, for a defense.

    Raises:
        UsageError: If the data has no numbered rows, as a stream has none.
    """
    data = _datamodule(trainer)
    if not hasattr(data, 'partition'):
        raise UsageError(
            'a split needs a row number for each pair, which a stream does not have: give it data with a table of '
            'pairs, as a subclass of PairsDataModule has one, or train without callbacks.repartition.'
        )
    return cast(Pairs, data)


def prompts_of(trainer: L.Trainer) -> Prompts:
    """The prompts that a run is evaluated with."""
    return cast(Prompts, _datamodule(trainer))


def truth_of(trainer: L.Trainer) -> Truth:
    """The truth about a run's pairs, for whatever measures. A test keeps it out of everything that decides."""
    return cast(Truth, _datamodule(trainer))


def _datamodule(trainer: L.Trainer) -> Any:
    return cast(Any, trainer).datamodule  # set by Lightning, but missing from its type
