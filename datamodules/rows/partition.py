"""Which pairs are trusted, and the batches drawn from each side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from datamodules.usage_error import UsageError

SAFE, RISKY, DROPPED = 0, 1, 2  # trained across modalities, within each modality, not at all
Order = Literal['interleaved', 'sequential', 'joint']
COLUMNS = {  # of a partition, with the value that stands for nothing known yet, the largest type first
    'score': (math.nan, torch.float32),
    'p_value': (math.nan, torch.float32),
    'side': (SAFE, torch.int8),
}
STATE_VERSION = 2  # of a partition in a checkpoint; version 1 did not record when the scores were measured


class Partition:
    """The side of every pair and the evidence for it. A defense decides it and the sampler draws batches by it.

    Args:
        rows: Number N of pairs, poisons included.
        fingerprint: Fingerprint of the table whose rows these are; a partition fits no other table.
        shared: Memory for the :data:`COLUMNS` that the processes of a machine have in common, see
            :func:`datamodules.files.shared_columns.share_columns`; ``None`` for memory of its own.

    Attributes:
        side: ``SAFE``, ``RISKY`` or ``DROPPED`` of each pair, int8 (N,). All pairs start as safe.
        score: Cosine similarity of image and caption in [-1, 1], float32 (N,); NaN until scored.
        p_value: Share of pairs known not to match that are at least as similar, float32 (N,); ``None`` or NaN where
            unknown.
        epoch: The epoch that the split holds for, counted from 0. It moves on where a split is kept for an epoch more.
        scored_after: Number of epochs trained when the scores were measured, which is the epoch that the split was
            made for; ``None`` before there are scores.
        mixture: Parameters of the mixture behind the split, ``None`` before there is one.
        null: Histogram of the similarities of shuffled pairs behind the split, as
            :meth:`callbacks.mismatches.Mismatches.histogram` gives it; ``None`` where unknown.
    """

    def __init__(self, rows: int, fingerprint: str, shared: Mapping[str, Tensor] | None = None) -> None:
        self._shared = shared
        own = shared or {name: torch.full((rows,), fill, dtype=dtype) for name, (fill, dtype) in COLUMNS.items()}
        self.side, self.score = own['side'], own['score']
        self.p_value: Tensor | None = None
        self.fingerprint = fingerprint
        self.epoch = 0
        self.scored_after: int | None = None
        self.mixture: dict[str, float] | None = None
        self.null: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.side)

    def rows(self, side: int) -> Tensor:
        """Row numbers of one side, ascending, int64."""
        return torch.nonzero(self.side == side).flatten()

    def hold(self, side: Tensor, score: Tensor, p_value: Tensor | None) -> None:
        """Takes the columns of another split, the same on all processes; shared memory gets a copy of them."""
        if self._shared is not None:
            side, score = self._shared['side'].copy_(side), self._shared['score'].copy_(score)
            p_value = None if p_value is None else self._shared['p_value'].copy_(p_value)
        self.side, self.score, self.p_value = side, score, p_value

    @property
    def share(self) -> float:
        """Safe pairs as a fraction of all that are not dropped."""
        side = self.side.numpy()  # torch would count in int64
        safe, kept = int(np.count_nonzero(side == SAFE)), int(np.count_nonzero(side != DROPPED))
        return safe / max(1, kept)

    def state_dict(self) -> dict[str, Any]:
        return {
            'version': STATE_VERSION,
            'side': self.side.clone(),
            'score': self.score.clone(),
            'p_value': None if self.p_value is None else self.p_value.clone(),
            'fingerprint': self.fingerprint,
            'epoch': self.epoch,
            'scored_after': self.scored_after,
            'mixture': self.mixture,
            'null': self.null,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a split, also one of version 1, which is taken to have been made for the epoch it holds for.

        Raises:
            UsageError: If the split was made for another data set, or a later release wrote it.
        """
        if (version := state.get('version', 1)) > STATE_VERSION:
            raise UsageError(
                f'the checkpoint holds version {version} of a partition, this release reads up to {STATE_VERSION}: '
                f'resume with the release that wrote it.'
            )
        if state['fingerprint'] != self.fingerprint or len(state['side']) != len(self):
            raise UsageError(
                f'the checkpoint holds a partition of {len(state["side"]):,} pairs ({state["fingerprint"]}), the data '
                f'has {len(self):,} ({self.fingerprint}): resume with the data and attacks of that run, or start from '
                f'its weights with model.init_from instead of ckpt_path.'
            )
        self.hold(state['side'].clone(), state['score'].clone(), state.get('p_value'))
        self.null = state.get('null')
        self.epoch, self.mixture = int(state['epoch']), state['mixture']
        self.scored_after = state['scored_after'] if version > 1 else self._scored_after_of_version_1()

    def _scored_after_of_version_1(self) -> int | None:
        return self.epoch if self.score.isfinite().any() else None


class Draw(NamedTuple):
    """Rows of one batch on one rank; the first ``cross_modal`` of them are trained across modalities."""

    rows: np.ndarray
    cross_modal: int


def steps_of_sides(safe: int, risky: int, steps: int, safe_weight: float = 1.0) -> tuple[int, int]:
    """Splits the steps of an epoch between the sides by their share of the pairs.

    Args:
        safe: Pairs on the safe side.
        risky: Pairs on the risky side.
        steps: Steps of the epoch, the same in every epoch.
        safe_weight: How often a safe pair is drawn for one draw of a risky pair.

    Returns:
        Steps on safe and on risky batches. They add up to ``steps``; of two steps or more, each side that holds a
        pair gets at least one.
    """
    if not safe or not risky:
        return (steps, 0) if safe else (0, steps)
    on_safe = min(max(round(steps * safe_share(safe, risky, safe_weight)), 1), max(steps - 1, 1))
    return on_safe, max(steps - on_safe, 0)


def safe_share(safe: int, risky: int, safe_weight: float = 1.0) -> float:
    """Draws of safe pairs as a fraction of all draws; the arguments are those of :func:`steps_of_sides`."""
    return safe_weight * safe / (safe_weight * safe + risky)


def endless(rows: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draws ``count`` rows in random order, each of them once before any is drawn again."""
    drawn = np.empty(count, rows.dtype)
    for start in range(0, count, max(1, len(rows))):
        part = drawn[start : start + len(rows)]
        if len(part) == len(rows):  # in place, for a hundred million rows
            part[:] = rows
            generator.shuffle(part)
        else:
            part[:] = generator.permutation(rows)[: len(part)]
    return drawn


class PartitionSampler(Sampler[Draw]):
    """Yields the batches of one epoch, a pure function of its arguments, so that ranks and resumed runs agree.

    Args:
        cross_modal: Rows to train across modalities, integers of any size.
        within_modal: Rows to train within each modality, integers of any size.
        steps: Number of batches, the same on all ranks.
        batch_size: Number of pairs in a batch over all ranks; a multiple of ``world``.
        seed: Seed of the order.
        epoch: Epoch that the batches are for, counted from 0.
        rank: Rank of this process.
        world: Number of processes.
        order: ``interleaved``: batches of one side each, in random order. ``sequential``: first all risky batches,
            then the safe ones, as the released code does. ``joint``: both sides in every batch (Eq. 4 read as a sum).
        safe_weight: How often a safe pair is drawn for one draw of a risky pair.
    """

    def __init__(
        self,
        cross_modal: np.ndarray,
        within_modal: np.ndarray,
        steps: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
        order: Order = 'interleaved',
        safe_weight: float = 1.0,
    ) -> None:
        self.cross_modal, self.within_modal = cross_modal, within_modal
        self.steps, self.batch_size = steps, batch_size
        self.seed, self.epoch, self.rank, self.world = seed, epoch, rank, world
        self.order, self.safe_weight = order, safe_weight

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.default_rng([self.seed, self.epoch])
        safe_in_batch = self._safe_in_batch(generator)
        safe = endless(self.cross_modal, int(safe_in_batch.sum()), generator)
        risky = endless(self.within_modal, int((self.batch_size - safe_in_batch).sum()), generator)
        at_safe = at_risky = 0
        for count in safe_in_batch:
            to_safe, to_risky = at_safe + count, at_risky + self.batch_size - count
            yield self._slice(safe[at_safe:to_safe], risky[at_risky:to_risky])
            at_safe, at_risky = to_safe, to_risky

    def _safe_in_batch(self, generator: np.random.Generator) -> np.ndarray:
        """Safe pairs of each batch, a multiple of the ranks, int64 (steps,)."""
        sizes = len(self.cross_modal), len(self.within_modal)
        per_rank = self.batch_size // self.world
        least = -(-2 // self.world)  # of each side on a rank: a loss that contrasts one pair with none is 0
        if self.order == 'joint' and all(sizes) and per_rank >= 2 * least:
            share = min(max(round(per_rank * safe_share(*sizes, self.safe_weight)), least), per_rank - least)
            return np.full(self.steps, share * self.world)
        on_safe, on_risky = steps_of_sides(*sizes, self.steps, self.safe_weight)
        plan = np.repeat([0, self.batch_size], [on_risky, on_safe])
        return generator.permutation(plan) if self.order == 'interleaved' else plan

    def _slice(self, safe: np.ndarray, risky: np.ndarray) -> Draw:
        """This rank's part of a global batch, strided so that every rank gets the same number from each side."""
        mine = safe[self.rank :: self.world], risky[self.rank :: self.world]
        return Draw(np.concatenate(mine), len(mine[0]))
