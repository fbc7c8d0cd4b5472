"""The batches of a round in which a model and the noise on its training pairs take turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.rows.draws import permutation
from datamodules.rows.partition import Draw, endless


def plan_round(
    unit: np.ndarray, batch_size: int, model_steps: int, *, in_passes: bool, seed: int, number: int
) -> list[np.ndarray]:
    """Rows of each batch of a round over all processes: first those that train the model, then a sweep over all rows.

    The batches of the sweep hold every row once, and are full to within a row. Where each unit has noise of its own,
    a pass over the units takes one row of each, and the next another of its rows, in the same order of the units: so a
    batch holds two rows of a unit only where fewer units than its size are left.

    Args:
        unit: The unit of noise that each row shares, int64 (N,); -1 for rows that are left out.
        batch_size: Rows of a batch, at most.
        model_steps: Batches that train the model.
        in_passes: Whether to take one row of each unit after the other; else rows are in random order.
        seed: Seed of the run.
        number: Number of the round, which determines the order with the seed.
    """
    rows = np.flatnonzero(unit >= 0)
    generator = np.random.default_rng([seed, number])
    draws = endless(rows, model_steps * batch_size, generator).reshape(-1, batch_size)
    order = _in_passes(rows, unit, seed, number) if in_passes else rows[permutation(len(rows), seed, number)]
    return [*draws, *np.array_split(order, -(-len(order) // batch_size))]


def _in_passes(rows: np.ndarray, unit: np.ndarray, seed: int, number: int) -> np.ndarray:
    shuffled = rows[permutation(len(rows), seed, number)]
    by_unit = shuffled[np.argsort(unit[shuffled], kind='stable')]
    _, first, count = np.unique(unit[by_unit], return_index=True, return_counts=True)
    turn = np.arange(len(by_unit)) - np.repeat(first, count)
    place = np.repeat(permutation(len(count), seed, number, 1), count)  # of the unit in each pass
    return by_unit[np.lexsort([place, turn])]


def share(batches: Sequence[np.ndarray], rank: int, world: int) -> list[Draw]:
    """The part of each batch that a process takes: consecutive rows, as many as any other takes to within one."""
    parts = (np.array_split(rows, world)[rank] for rows in batches)
    return [Draw(part, len(part)) for part in parts]
