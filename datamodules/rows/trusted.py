"""The pairs that the user vouches for: ``data.trusted`` in a config file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datamodules.rows.filters import Filter, dropped_by
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError


def find_trusted(
    rule: Filter | None,
    table: PairTable,
    untrained: np.ndarray,
    poisons: np.ndarray,
    pictures: Callable[[], np.ndarray],
) -> np.ndarray:
    """Rows that a rule keeps, of those that are trained on, ascending, int64; none without a rule.

    Args:
        rule: The rule.
        table: All pairs.
        untrained: Whether each row is left out of training, bool (N,).
        poisons: Poisoned rows, int64 (P,), for a rule that knows them, such as ``CleanSubset``.
        pictures: Hashes the picture of each row, int64 (N,).

    Raises:
        UsageError: If the rule cannot be applied to these pairs, or no pair is left.
    """
    if rule is None:
        return np.empty(0, np.int64)
    try:
        dropped = dropped_by(rule, table, poisons, pictures)
    except UsageError as error:  # rules are written for data.filters
        raise UsageError(str(error).replace('data.filters', 'data.trusted')) from error
    trusted = np.flatnonzero(~dropped & ~untrained)
    if not len(trusted):
        raise UsageError(
            f'data.trusted names {(~dropped).sum():,} pairs, and none of them is trained on: name readable pairs that '
            f'data.filters keep, or set it to null.'
        )
    return trusted
