"""Labeled images to measure on: clean ones for accuracy, triggered or targeted ones for attack success."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.pictures.cache import Pictures, read_pictures
from datamodules.pictures.copies import picture_hashes
from datamodules.usage_error import UsageError

Metric = Literal['accuracy', 'mean_per_class']  # share of right answers: over all images, or the mean over the classes


class EvalBatch(NamedTuple):
    """One batch of an evaluation set.

    Attributes:
        image: Stored pictures from the worker, uint8 (B, 3, h, w); normalized on the device, float (B, 3, H, W).
        label: True class, int64 (B,); -1 where unknown.
        target: Target class of the attack, int64 (B,); -1 in clean sets.
        valid: Whether to count an image, bool (B,); false for repeated ones that pad the last batch of a rank.
    """

    image: Tensor
    label: Tensor
    target: Tensor
    valid: Tensor


@dataclass(frozen=True)
class EvaluationSet:
    """Images with their true and target classes, and the prompts of the zero-shot classifier.

    Attributes:
        name: Name of the set in metrics, such as ``zero_shot/<name>`` or ``asr/<name>/rate``.
        pictures: Stored pictures, uint8 (N, 3, h, w), on disk or in memory, or a function that makes them when they are
            first read.
        label: True class of each image, int64 (N,); -1 where unknown.
        target: Target class of the attack for each image, int64 (N,); ``None`` in a clean set.
        classes: Class names of the zero-shot classifier.
        templates: Prompts with one ``{}`` each, filled with a class name and averaged.
        metric: What is reported of a clean set.
        train: Makes the training split of a clean set, for a probe; ``None`` if there is none.
    """

    name: str
    pictures: Pictures | Callable[[], np.ndarray]
    label: np.ndarray
    target: np.ndarray | None
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    metric: Metric = 'accuracy'
    train: Callable[[], EvaluationSet] | None = None

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def images(self) -> np.ndarray:
        """Stored pictures, uint8 (N, 3, h, w), in memory or memory-mapped."""
        return cast('np.ndarray', self.pictures() if callable(self.pictures) else self.pictures)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Stored pictures of some images, uint8 (n, 3, h, w)."""
        return read_pictures(self.images, rows)

    @cached_property
    def hashes(self) -> np.ndarray:
        """A hash of each stored picture, int64 (N,), equal for equal pixels."""
        return picture_hashes(self.read, len(self))

    @property
    def kind(self) -> Literal['zero_shot', 'asr']:
        """``zero_shot`` counts predictions of the true class, ``asr`` predictions of the target class."""
        return 'zero_shot' if self.target is None else 'asr'


def check_set_names(heldout_name: str, labeled: Collection[str], retrieval_sets: Collection[str] = ()) -> None:
    """Refuses names of clean sets that metrics cannot carry, or that would give two sets the same metric.

    Args:
        heldout_name: Name of the held-out set.
        labeled: Names of the other labeled sets.
        retrieval_sets: Names of the other sets for retrieval.

    Raises:
        UsageError: If a name has other characters than metrics, or another set has the name of the held-out one.
    """
    others = {'data.labeled': labeled, 'data.retrieval_sets': retrieval_sets}
    for argument, names in {'data.heldout_name': [heldout_name], **others}.items():
        if unusable := [name for name in names if not re.fullmatch(r'[\w.-]+', name)]:
            raise UsageError(
                f'{unusable[0]!r} in {argument} cannot be the name of a set, as metrics are named after it: use '
                f'letters, digits, dots, _ and -.'
            )
    for argument, names in others.items():
        if heldout_name in names:
            raise UsageError(f'{argument} has a set {heldout_name!r}, the data.heldout_name: rename one of them.')


class _Batches(Dataset[EvalBatch]):
    """Maps a number to a batch. Each rank reads every ``world``-th image, and all ranks read equally many batches."""

    def __init__(self, source: EvaluationSet, batch_size: int, rank: int, world: int) -> None:
        self.source, self.batch_size = source, batch_size
        self.rank, self.world = rank, world
        self.per_rank = -(-len(source) // world)

    def __len__(self) -> int:
        return -(-self.per_rank // self.batch_size)

    def __getitem__(self, number: int) -> EvalBatch:
        positions = np.arange(number * self.batch_size, min((number + 1) * self.batch_size, self.per_rank))
        rows = positions * self.world + self.rank
        valid = rows < len(self.source)
        rows = np.minimum(rows, len(self.source) - 1)
        target = np.full(len(rows), -1) if self.source.target is None else self.source.target[rows]
        return EvalBatch(
            torch.from_numpy(np.ascontiguousarray(self.source.read(rows))),
            torch.from_numpy(self.source.label[rows].astype(np.int64)),
            torch.from_numpy(target.astype(np.int64)),
            torch.from_numpy(valid),
        )


def evaluation_loader(source: EvaluationSet, batch_size: int, rank: int = 0, world: int = 1) -> DataLoader[EvalBatch]:
    """Builds a loader that reads an evaluation set once over all ranks.

    No image is counted twice, and all ranks read the same number of batches.

    Args:
        source: The images.
        batch_size: Images in a batch of one rank.
        rank: Rank of this process.
        world: Number of processes.
    """
    return DataLoader(_Batches(source, batch_size, rank, world), batch_size=None)
