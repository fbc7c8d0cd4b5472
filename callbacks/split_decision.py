"""What a decision about a split takes from the one before and returns, and the ranking that it goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.mismatches import Mismatches
from callbacks.mixture import Array, Mixture
from callbacks.nth_largest import nth_largest
from datamodules.rows.draws import bits_at
from datamodules.rows.partition import DROPPED, RISKY, SAFE

Side = NDArray[np.int8]
NOTHING_KNOWN = Mismatches()
TIE_KEY = 0x7469_6573  # key of the hash that breaks ties; arbitrary, but a change would change splits


@dataclass(frozen=True)
class Past:
    """What one split passes on to the next.

    Args:
        fraction: Intended safe share of the pairs that are not dropped, as an exact fraction.
        mixture: The mixture that was fitted last.
    """

    fraction: Fraction
    mixture: Mixture | None = None

    def state_dict(self) -> dict[str, Any]:
        """The same as plain values, for a checkpoint."""
        return {'fraction': str(self.fraction), 'mixture': self.mixture and asdict(self.mixture)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Past:
        """Inverts :meth:`state_dict`."""
        mixture = state['mixture']
        return cls(Fraction(state['fraction']), mixture and Mixture(**mixture))


@dataclass(frozen=True)
class Split:
    """What ``Repartition.decide`` returns.

    Args:
        side: ``SAFE``, ``RISKY`` or ``DROPPED`` of each row, int8 (N,).
        past: Passed to the next call.
        threshold: Similarity of the least similar pair that is safe by this decision; NaN if none is.
        p_value: Share of mismatched pairs that are at least as similar as each pair, float32 (N,); NaN where unknown.
            The callback adds it, as it adds the leaks.
        leaks: What is logged about mismatched pairs.
        null: Histogram of the similarities of shuffled pairs, ``None`` if none was measured. The callback adds it, too.
        unscored: Number of pairs without a finite similarity; none of them is safe.
        remarks: Messages for the user.
    """

    side: Side
    past: Past
    threshold: float
    unscored: int = 0
    remarks: tuple[str, ...] = ()
    p_value: NDArray[np.float32] | None = None
    leaks: Mapping[str, float] = field(default_factory=dict)
    null: dict[str, Any] | None = None


def pack_side(side: Side) -> list[NDArray[np.uint8]]:
    """Sides as bits, a quarter of a byte a row: which rows are safe, and which are dropped."""
    return [np.packbits(side == each) for each in (SAFE, DROPPED)]


def unpack_side(packed: Sequence[NDArray[np.uint8]], rows: int) -> Side:
    """Inverts :func:`pack_side` for a number of rows."""
    side = np.full(rows, RISKY, np.int8)
    for each, marks in zip((SAFE, DROPPED), packed, strict=True):
        side[np.unpackbits(marks, count=rows).view(bool)] = each
    return side


def top_rows(rank: Array, count: int) -> NDArray[np.int64]:
    """Rows of the ``count`` largest values, largest first.

    Ties are broken by a keyed hash of the row. Breaking them by row number would leak which pairs are poisoned:
    attacks append their poisons, so a poison would lose every tie.

    Args:
        rank: A value for each row, (N,); NaN where unknown.
        count: How many rows to take; fewer are returned if fewer are known.
    """
    rows = np.flatnonzero(mark_top(rank, count))
    return rows[np.lexsort((bits_at(rows, TIE_KEY), -rank[rows]))]  # lexsort's last key comes first


def mark_top(rank: NDArray[np.floating], count: int) -> NDArray[np.bool_]:
    """Marks the rows that :func:`top_rows` takes, bool (N,), without sorting or copying the values."""
    is_known = ~np.isnan(rank)
    if not 0 < count < np.count_nonzero(is_known):
        return is_known if count else np.zeros_like(is_known)
    least = nth_largest(rank, count)
    is_top = rank > least
    ties = np.flatnonzero(rank == least)
    first = np.argsort(bits_at(ties, TIE_KEY), kind='stable')[: count - np.count_nonzero(is_top)]
    is_top[ties[first]] = True
    return is_top
