"""Protocols of a datamodule: what a defense may use, and what only metrics and reports may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.attacks.manifest import Manifest
from datamodules.evaluation.heldout import HeldoutSet
from datamodules.evaluation.sets import EvalBatch, EvaluationSet
from datamodules.pictures.batches import CLEAN, OverlaidPictures, PairBatch
from datamodules.rows.partition import Partition
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError


class Pairs(Protocol):
    """All that a defense may use: numbered rows, without their origin and without the truth about them.

    Attributes:
        partition: Side of each pair, set by the defense; its length is the number N of pairs.
        batch_size: Pairs in a batch, over all processes.
        tokens: Tokens of each caption, (N, T).
        trusted_rows: Rows of the pairs that the user vouches for, ascending, int64 (T,): a statement of the user's own,
            and no truth. Empty if the user trusts none.
    """

    partition: Partition
    batch_size: int
    tokens: np.ndarray
    trusted_rows: np.ndarray

    def sweep_dataloader(
        self, epoch: int = CLEAN, rows: np.ndarray | None = None, views: int = 1
    ) -> DataLoader[PairBatch]:
        """Reads this process's share of the pairs, in order of their rows.

        Args:
            epoch: Epoch whose augmented views are read; ``CLEAN`` for pairs without augmentation.
            rows: Rows to read, ascending, int64; ``None`` reads all that are not dropped.
            views: Views of each pair.
        """

    def picture_hashes(self) -> np.ndarray:
        """A hash of each row's stored picture, int64 (N,), equal for equal pixels."""


class Canaries(Protocol):
    """Pairs that the defender has planted and may therefore know; ``data.canaries`` says which."""

    def canary_rows(self) -> dict[str, np.ndarray]:
        """Rows of each canary by its name, ascending, int64; the last rows of all. Empty without canaries."""

    def canary_dataloader(self) -> DataLoader[EvalBatch]:
        """Reads this process's share of the pictures that show whether canaries are learned.

        ``target`` of a batch is the number of the canary that a picture is for, in the order of :meth:`canary_rows`.
        ``label`` is the same if the picture carries its trigger or is one of its copies, else -1.
        """

    def canary_prompts(self) -> torch.Tensor:
        """Tokens of captions of each canary, int64 (C, P, T)."""


class Labels(Protocol):
    """The classes of labeled images, for training on labels instead of captions.

    Attributes:
        classes: Class names that labels point into.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    def row_labels(self) -> np.ndarray:
        """Class of the image of each row, int64 (N,).

        Raises:
            UsageError: If a row that is trained on has none.
        """

    def sets_with_these_classes(self) -> list[bool]:
        """Whether each evaluation set has these classes, in the order of the validation loaders."""


class Prompts(Protocol):
    """All that a zero-shot classifier is built from."""

    def prompt_tokens(self) -> list[torch.Tensor]:
        """Tokens of the prompts of each evaluation set, int64 (C, P, T)."""

    def kept_array(self, name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> np.ndarray:
        """An array that is made once and kept for later runs, float32.

        Args:
            name: Its name, which must determine its content.
            shape: Its shape.
            fill: Writes the content in place, if there is none yet.
        """


class Truth(Protocol):
    """What metrics, the ledger, figures and audits may use. A defense that used it would prove nothing.

    Attributes:
        manifest: Which rows are poisoned, and by which attack.
        evaluation_sets: Labeled and triggered pictures, in the order of the validation loaders.
        classes: Class names that the zero-shot classifier chooses from.
        table: Caption and image reference of every row. References reveal where a picture comes from.
        tokens: Tokens of each caption, (N, T).
        images: Stored pictures by row.
        partition: The split to measure.
        heldout: Captions and image references of the held-out pairs, or ``None``.
        heldout_name: Name of the held-out set in metrics.
        heldout_sets: All sets of held-out pairs by name: these, if there are any, and those of ``data.retrieval_sets``.
        canary_count: Number of canary pairs, which are the last rows and belong to no attack.
        cache_dir: Folder of the caches.
    """

    manifest: Manifest
    evaluation_sets: list[EvaluationSet]
    table: PairTable
    tokens: np.ndarray
    images: OverlaidPictures
    partition: Partition
    heldout_name: str
    cache_dir: Path
    heldout_sets: dict[str, HeldoutSet]

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def heldout(self) -> PairTable | None: ...

    @property
    def canary_count(self) -> int: ...

    def picture_hashes(self) -> np.ndarray:
        """A hash of each row's stored picture, int64 (N,), equal for equal pixels."""

    def evaluation_dataloader(self, source: EvaluationSet) -> DataLoader[EvalBatch]:
        """Reads this process's share of the pictures of an evaluation set or of its training split, in order.

        All processes read equally many. Process r of W reads pictures r, r + W, r + 2 W and so on.
        """

    def predict_dataloader(self) -> DataLoader[PairBatch]:
        """Reads this process's share of the pairs that are trained on, without augmentation, in order of their rows."""

    def heldout_dataloader(self, name: str | None = None) -> DataLoader[PairBatch]:
        """Reads this process's share of a set of held-out pairs, in order. The rows of its batches are rows of the set.

        Args:
            name: Name of the set; ``None`` for ``heldout``.

        Raises:
            UsageError: If no pairs are held out.
        """


def pairs_of(trainer: L.Trainer) -> Pairs:
    """The training pairs of a run, for a defense.

    Raises:
        UsageError: If the data has no numbered rows, because it is a stream.
    """
    data = _datamodule(trainer)
    if not hasattr(data, 'partition'):
        raise UsageError(
            'a split needs a row number for each pair, which a stream does not have: use a datamodule with a table of '
            'pairs, such as a subclass of PairsDataModule, or train without callbacks.repartition.'
        )
    return cast(Pairs, data)


def canaries_of(trainer: L.Trainer) -> Canaries:
    """The canaries of a run, for a defense and for metrics; a stream has none."""
    data = _datamodule(trainer)
    return cast(Canaries, data if hasattr(data, 'canary_rows') else _NoCanaries())


class _NoCanaries:
    def canary_rows(self) -> dict[str, np.ndarray]:
        return {}


def labels_of(trainer: L.Trainer) -> Labels:
    """The labels of a run's images.

    Raises:
        UsageError: If the data is a stream, whose pairs have no labels.
    """
    data = _datamodule(trainer)
    if not hasattr(data, 'row_labels'):
        raise UsageError('training on labels needs labeled images: use a datamodule such as CaptionedImages.')
    return cast(Labels, data)


def prompts_of(trainer: L.Trainer) -> Prompts:
    """The prompts that a run is evaluated with."""
    return cast(Prompts, _datamodule(trainer))


def truth_of(trainer: L.Trainer) -> Truth:
    """The truth about a run's pairs, for measuring. A test checks that nothing that decides calls this."""
    return cast(Truth, _datamodule(trainer))


def _datamodule(trainer: L.Trainer) -> Any:
    return cast(Any, trainer).datamodule  # set by Lightning, but missing from its type
