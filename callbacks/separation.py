"""How well a split and its scores tell poisoned pairs from clean ones; for code that may know which are poisoned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from datamodules.rows.partition import RISKY, SAFE


def auroc(clean: np.ndarray, poison: np.ndarray) -> float:
    """Probability that a clean pair is more similar than a poisoned one, where a tie counts half.

    Args:
        clean: Similarities of clean pairs, (N,). Pairs that were not scored, NaN, are left out.
        poison: Similarities of poisoned pairs, (P,). Pairs that were not scored, NaN, are left out.

    Returns:
        Area under the ROC curve in [0, 1], 0.5 by chance; NaN if either side is empty.
    """
    ordered, poison = np.sort(clean[~np.isnan(clean)]), poison[~np.isnan(poison)]
    if not len(ordered) or not len(poison):
        return float('nan')
    lower_or_equal = np.searchsorted(ordered, poison, 'right')
    lower = np.searchsorted(ordered, poison, 'left')
    return float(1 - (lower + lower_or_equal).mean() / (2 * len(ordered)))


def separation(side: np.ndarray, score: np.ndarray, poisons: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Compares a split with the truth.

    Args:
        side: Side of each pair, (N,).
        score: Similarity of each pair, (N,), NaN where it was not scored.
        poisons: Poisoned rows of each attack.

    Returns:
        - ``leak/<attack>``: fraction of the attack's poisons on the safe side;
        - ``risky_share/<attack>``: fraction on the risky side; the rest is dropped;
        - ``auroc/<attack>``: :func:`auroc` of its poisons against all clean pairs; missing if nothing was scored;
        - ``poisons``: number of poisons of all attacks on the safe side;
        - ``contamination``: poisons as a fraction of the safe side, 0 if it is empty.

        Nothing without an attack: pairs of unknown origin are not known to be clean.
    """
    if not poisons:
        return {}
    is_clean = np.ones(len(side), bool)
    for rows in poisons.values():
        is_clean[rows] = False
    is_safe = side == SAFE
    leaked = int((is_safe & ~is_clean).sum())
    sides = {'leak': is_safe, 'risky_share': side == RISKY}
    metrics = {
        f'{name}/{attack}': float(on[rows].mean())
        for name, on in sides.items()
        for attack, rows in poisons.items()
        if len(rows)
    }
    areas = {f'auroc/{attack}': auroc(score[is_clean], score[rows]) for attack, rows in poisons.items()}
    metrics |= {name: area for name, area in areas.items() if not np.isnan(area)}
    return {**metrics, 'poisons': leaked, 'contamination': leaked / max(1, int(is_safe.sum()))}
