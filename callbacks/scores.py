"""Sources of the values that a split is based on: a sweep over clean or augmented views, training itself, or chance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.shuffled_pairs import ShuffledPairs
from callbacks.sweep import RowSums, sweep
from datamodules.contracts import pairs_of
from datamodules.rows.draws import fractions
from datamodules.usage_error import UsageError

Rows = NDArray[np.int64]
RANDOM_KEY = 0x72616E6B  # of the stream of random ranks; arbitrary, but a change would change them


class Score(ABC):
    """Gives each pair a similarity, by which :class:`callbacks.repartition.Repartition` ranks the pairs.

    A subclass implements :meth:`measure`. A score that collects its values during training also overrides
    :meth:`begin_epoch`, :meth:`add` and :meth:`end_epoch`, and keeps what it collected in :meth:`state_dict`; by
    default these do nothing.

    Attributes:
        sweeps: Whether measuring runs the model over the pairs, so that measuring fewer pairs takes less time.
    """

    sweeps: ClassVar[bool] = True

    @abstractmethod
    def measure(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        epoch: int,
        rows: Rows | None = None,
        shuffled: ShuffledPairs | None = None,
    ) -> Tensor:
        """Measures the similarities on which the split of an epoch is based.

        Args:
            trainer: The trainer, with its data.
            module: Its module.
            epoch: The epoch that will train on the split, counted from 0.
            rows: Rows to measure, ascending; all that are not dropped if ``None``.
            shuffled: Collects the embeddings of its rows, if the score has any, to compare pictures with the captions
                of other pairs in the same way.

        Returns:
            Similarity of each row, float32 (N,), on the CPU, the same on all processes; NaN where it is unknown.
        """

    def is_measurable_after(self, epochs: Sequence[Mapping[str, int]]) -> bool:
        """Whether training these epochs makes similarities meaningful.

        Args:
            epochs: The sides of each epoch before the first split, as ``module.sides(epoch)`` gives them.
        """
        return bool(epochs)

    def begin_epoch(self, pairs: int, sides: Mapping[str, int], device: torch.device) -> None:  # noqa: B027 - optional
        """Called when an epoch starts.

        Args:
            pairs: Number N of pairs in the table.
            sides: The sides that the epoch trains.
            device: Device of the module.
        """

    def add(self, batch: Any, outputs: Any) -> None:  # noqa: B027 - optional
        """Called after each training step, with its batch and what ``training_step`` returned."""

    def end_epoch(self, trainer: L.Trainer) -> None:  # noqa: B027 - optional
        """Called when an epoch ends, before :meth:`measure`."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - optional
        """Restores a state that :meth:`state_dict` returned, of another class if a resumed run changes its score."""


class Clean(Score):
    """Similarities of the pairs as they are, without augmentation, from one sweep."""

    def measure(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        epoch: int,
        rows: Rows | None = None,
        shuffled: ShuffledPairs | None = None,
    ) -> Tensor:
        return _sweep(trainer, module, rows, shuffled)


class Augmented(Score):
    """Similarities of augmented views, as in the released code: the views of the epoch that will train on the split.

    Args:
        views: Number of views to average over; each costs one sweep. The released code uses 1, which is noisier than
            ``Clean``; an average of four is less noisy. Noise matters most for single images, such as those that
            targeted poisons repeat.
    """

    def __init__(self, views: int = 1) -> None:
        if views < 1:
            raise UsageError(f'callbacks.repartition.score.views must be at least 1, got {views}.')
        self.views = views

    def measure(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        epoch: int,
        rows: Rows | None = None,
        shuffled: ShuffledPairs | None = None,
    ) -> Tensor:
        return _sweep(trainer, module, rows, shuffled, epoch=epoch, views=self.views)


class Running(Score):
    """Moving average over epochs of the similarities that training computes anyway; needs no sweep.

    Only epochs with a cross-modal side count; pairs that none of them drew are risky. The similarities come from
    augmented views, and from weights that changed during the epoch.

    Args:
        momentum: Weight of the previous average when an epoch's similarities are added, in [0, 1).

    Attributes:
        average: Of each row, float32 (N,); NaN until a row is first seen. ``None`` before the first epoch.
    """

    sweeps = False

    def __init__(self, momentum: float = 0.5) -> None:
        if not 0 <= momentum < 1:
            raise UsageError(f'callbacks.repartition.score.momentum must lie in [0, 1), got {momentum}.')
        self.momentum = momentum
        self.average: Tensor | None = None
        self._epoch: RowSums | None = None

    def measure(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        epoch: int,
        rows: Rows | None = None,
        shuffled: ShuffledPairs | None = None,
    ) -> Tensor:
        if self.average is None:
            raise UsageError(
                f'callbacks.repartition.score=Running has no similarities from before epoch {epoch}: resume from a '
                f'checkpoint that was written at the end of an epoch, by a run with the same score.'
            )
        return self.average.clone()

    def is_measurable_after(self, epochs: Sequence[Mapping[str, int]]) -> bool:
        return any('cross_modal' in sides for sides in epochs)

    def begin_epoch(self, pairs: int, sides: Mapping[str, int], device: torch.device) -> None:
        # A new object also discards what an interrupted epoch left behind.
        self._epoch = RowSums(pairs, device) if 'cross_modal' in sides else None

    def add(self, batch: Any, outputs: Any) -> None:
        if self._epoch is not None:
            self._epoch.add(batch.row, outputs['similarity'])

    def end_epoch(self, trainer: L.Trainer) -> None:
        """Updates the average of every row that any rank has seen."""
        if self._epoch is None:
            return
        seen = self._epoch.mean(trainer)
        previous = torch.full_like(seen, float('nan')) if self.average is None else self.average
        updated = self.momentum * previous + (1 - self.momentum) * seen
        self.average = torch.where(seen.isnan(), previous, torch.where(previous.isnan(), seen, updated))
        self._epoch = None

    def state_dict(self) -> dict[str, Any]:
        return {'average': self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = state.get('average')


class Random(Score):
    """Random numbers instead of similarities: the control that shows what a split owes to its ranking.

    A pair keeps its number for the whole run, so the safe side grows as with similarities. Set ``first_fraction``, as
    a mixture has nothing to fit.

    Args:
        seed: Seed of the numbers.
    """

    sweeps = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def measure(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        epoch: int,
        rows: Rows | None = None,
        shuffled: ShuffledPairs | None = None,
    ) -> Tensor:
        numbers = fractions(len(pairs_of(trainer).partition), self.seed, RANDOM_KEY)
        return torch.from_numpy(numbers.astype(np.float32))


def _sweep(
    trainer: L.Trainer, module: L.LightningModule, rows: Rows | None, shuffled: ShuffledPairs | None, **view: int
) -> Tensor:
    """One sweep over the rows, or over all that are not dropped."""
    pairs = pairs_of(trainer)
    arguments: dict[str, Any] = view if rows is None else {**view, 'rows': rows}
    return sweep(trainer, module, pairs.sweep_dataloader(**arguments), len(pairs.partition), shuffled)
