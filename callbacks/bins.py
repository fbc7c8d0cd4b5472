"""Bins of histograms of similarities, the same where they are kept and where they are drawn."""

from __future__ import annotations

import numpy as np

BINS = 80
MARGIN = 1e-3  # of similarity, on either side; keeps a histogram of equal values from having no width


def bin_edges(low: float, high: float) -> np.ndarray:
    """Edges of equal bins that hold all values from ``low`` to ``high``, float64 (BINS + 1,)."""
    return np.linspace(low - MARGIN, high + MARGIN, BINS + 1)
