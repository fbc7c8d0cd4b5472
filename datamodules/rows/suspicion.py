"""One rank of suspects from several scores: how far a pair stands out in the score in which it does so most.

In each score, 1 is what one pair in twenty reaches: of all pairs or, where that is known, by chance.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
COMMON = 0.95  # share of the pairs that no score calls unusual
STANDS_OUT = 8.0  # from here on, a pair is worth a look whatever its rank; see docs/audit.md for what clean sets reach


def standing_out(score: Scores) -> Scores:
    """How far each score lies above the middle, as a multiple of how far the unusual twentieth begins, (N,).

    Ranks would let every score fill the top of a common list, whether or not it has anything to show.

    Args:
        score: Scores, higher for more suspicious pairs, (N,); NaN where unknown, which stays NaN.
    """
    known = score[~np.isnan(score)]
    if not len(known):
        return score
    middle, unusual = np.quantile(known, [0.5, COMMON])
    unit = unusual - middle or known.max() - middle or 1.0
    return np.asarray((score - middle) / unit)


def suspicion(scores: Mapping[str, Scores]) -> tuple[Scores, NDArray[np.int64]]:
    """The largest of the scores of each pair, (N,), and the number of that score, int64 (N,).

    Args:
        scores: How far pairs stand out, by name of the score; at least one. NaN counts as not standing out.

    Returns:
        NaN and 0 for a pair without any score.
    """
    each = np.stack([*scores.values()])
    reason = np.where(np.isnan(each), -np.inf, each).argmax(0)
    return each[reason, np.arange(each.shape[1])], reason
