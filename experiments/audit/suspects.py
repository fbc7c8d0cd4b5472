"""The rows that a page shows first: the most suspicious pairs, but not a whole page of one picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.rows.filters import earlier_alike, ranked

OF_ONE_PICTURE = 20  # rows of a group of nearly identical pictures; the group is shown as a whole elsewhere


def suspects(suspicion: NDArray[np.float64], group: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of the most suspicious pairs, the most suspicious one first, int64 (n,).

    Args:
        suspicion: Suspicion of each pair, (N,), NaN for pairs without scores, which are left out.
        group: Group of nearly identical pictures of each, int64 (N,).
        count: Most rows to return.
    """
    order = ranked(suspicion)[: int((~np.isnan(suspicion)).sum())]
    return order[earlier_alike(group[order]) < OF_ONE_PICTURE][:count]
