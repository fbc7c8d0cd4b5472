"""Labeled images to measure on: clean ones for accuracy, triggered or targeted ones for attack success."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class EvalBatch(NamedTuple):
    """One batch of an evaluation set.

    Attributes:
        image: uint8 (B, 3, h, w) from the worker; float (B, 3, H, W), normalized, once on the device.
        label: True class, int64 (B,), -1 where unknown.
        target: Class that the attack wants, int64 (B,), -1 in clean sets.
        valid: False for rows that only fill up the last batch of a rank, bool (B,).
    """

    image: Tensor
    label: Tensor
    target: Tensor
    valid: Tensor


@dataclass(frozen=True)
class EvaluationSet:
    """Images, the truth about them, and the classes that a zero-shot classifier may answer.

    Attributes:
        name: Part of the metric's name, as in ``zero_shot/<name>`` or ``asr/<name>/rate``.
        pictures: uint8 (N, 3, h, w), or a function that makes them when they are first read.
        label: True class of each image, int64 (N,), -1 where unknown.
        target: Class that the attack wants for each image, int64 (N,); ``None`` in a clean set.
        classes: Class names of the zero-shot classifier.
        templates: Prompts with one ``{}`` each, filled with a class name and averaged.
    """

    name: str
    pictures: np.ndarray | Callable[[], np.ndarray]
    label: np.ndarray
    target: np.ndarray | None
    classes: tuple[str, ...]
    templates: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def images(self) -> np.ndarray:
        """Stored pictures, uint8 (N, 3, h, w), in memory or memory-mapped."""
        return self.pictures() if callable(self.pictures) else self.pictures

    @property
    def kind(self) -> Literal['zero_shot', 'asr']:
        """``zero_shot`` counts right answers, ``asr`` answers that the attack wants."""
        return 'zero_shot' if self.target is None else 'asr'


class _Batches(Dataset[EvalBatch]):
    """Batch number -> batch; each rank sees every ``world``-th image and equally many batches."""

    def __init__(self, source: EvaluationSet, batch_size: int, rank: int, world: int) -> None:
        self.source, self.batch_size = source, batch_size
        self.rank, self.world = rank, world
        self.per_rank = -(-len(source) // world)

    def __len__(self) -> int:
        return -(-self.per_rank // self.batch_size)

    def __getitem__(self, number: int) -> EvalBatch:
        place = np.arange(number * self.batch_size, min((number + 1) * self.batch_size, self.per_rank))
        rows = place * self.world + self.rank
        valid = rows < len(self.source)
        rows = np.minimum(rows, len(self.source) - 1)
        target = np.full(len(rows), -1) if self.source.target is None else self.source.target[rows]
        return EvalBatch(
            torch.from_numpy(np.ascontiguousarray(self.source.images[rows])),
            torch.from_numpy(self.source.label[rows].astype(np.int64)),
            torch.from_numpy(target.astype(np.int64)),
            torch.from_numpy(valid),
        )


def evaluation_loader(source: EvaluationSet, batch_size: int, rank: int = 0, world: int = 1) -> DataLoader[EvalBatch]:
    """Reads an evaluation set once over all ranks: no image is counted twice, no rank has a batch more.

    Args:
        source: The images.
        batch_size: Images in a batch of one rank.
        rank: This process.
        world: Number of processes.
    """
    return DataLoader(_Batches(source, batch_size, rank, world), batch_size=None)
