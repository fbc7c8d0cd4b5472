"""How well a split and its scores tell poisoned pairs from clean ones; for code that may know which are poisoned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from datamodules.rows.partition import RISKY, SAFE
from datamodules.rows.row_sets import blocks

CUTS = (2, 10)  # percent of the pairs, the most suspicious ones, that a filter by the score would drop


def auroc(clean: np.ndarray, poison: np.ndarray) -> float:
    """Probability that a clean pair is more similar than a poisoned one, where a tie counts half.

    Args:
        clean: Similarities of clean pairs, (N,). Pairs that were not scored, NaN, are left out.
        poison: Similarities of poisoned pairs, (P,). Pairs that were not scored, NaN, are left out.

    Returns:
        Area under the ROC curve in [0, 1], 0.5 by chance; NaN if either side is empty.
    """
    poison, known = poison[~np.isnan(poison)], _count_known(clean)
    if not known or not len(poison):
        return float('nan')
    lower, lower_or_equal = count_below(clean, poison)
    return float(1 - (lower + lower_or_equal).mean() / (2 * known))


def average_precision(clean: np.ndarray, poison: np.ndarray) -> float:
    """Mean share of poisons among the least similar pairs, over cuts just below each poison; ties are cut together.

    Args:
        clean: Similarities of clean pairs, (N,). Pairs that were not scored, NaN, are left out.
        poison: Similarities of poisoned pairs, (P,). Pairs that were not scored, NaN, are left out.

    Returns:
        Average precision in [0, 1], about the share of poisons by chance; NaN if there is no poison.
    """
    poison = np.sort(poison[~np.isnan(poison)])
    if not len(poison):
        return float('nan')
    poisons = np.searchsorted(poison, poison, 'right')
    return float((poisons / (poisons + count_below(clean, poison)[1])).mean())


def leak_at(percent: float, score: np.ndarray, poison: np.ndarray) -> float:
    """Share of an attack's poisons that is left if the least similar pairs of all are dropped.

    Args:
        percent: Share of the scored pairs to drop, in percent; of equally similar pairs, any are as likely dropped.
        score: Similarities of all pairs, (N,). Pairs that were not scored, NaN, are left out.
        poison: Those of the attack's poisons, (P,).

    Returns:
        The expected share in [0, 1]; NaN if there is no poison.
    """
    poison = poison[~np.isnan(poison)]
    if not len(poison):
        return float('nan')
    dropped = round(percent / 100 * _count_known(score))
    lower, lower_or_equal = count_below(score, poison)
    return float(1 - np.clip((dropped - lower) / (lower_or_equal - lower), 0, 1).mean())


def count_below(values: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many values are below each limit, and how many are not above it, int64 (L,).

    Args:
        values: Any order, (N,); a part of them is sorted at a time. NaN counts nowhere.
        limits: No NaN, (L,).
    """
    lower, lower_or_equal = np.zeros((2, len(limits)), np.int64)
    for block in blocks(len(values), 1 << 20):
        ordered = np.sort(values[block])  # NaN goes last
        lower += np.searchsorted(ordered, limits, 'left')
        lower_or_equal += np.searchsorted(ordered, limits, 'right')
    return lower, lower_or_equal


def _count_known(values: np.ndarray) -> int:
    return len(values) - int(np.count_nonzero(np.isnan(values)))


def detection(score: np.ndarray, poisons: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """How well a score tells each attack's poisons from clean pairs.

    Args:
        score: Score of each pair, (N,), NaN where there is none; low for suspicious pairs, as similarities are.
        poisons: Poisoned rows of each attack.

    Returns:
        For each attack of which some poison was scored: ``auroc``, see :func:`auroc`; ``ap``,
        :func:`average_precision`; ``leak_2`` and ``leak_10``, :func:`leak_at` cuts of 2 % and 10 %. The first two
        compare with all clean pairs; the cuts also drop poisons of other attacks.
    """
    clean = score[mark_clean(len(score), poisons)]
    return {
        attack: {
            'auroc': auroc(clean, score[rows]),
            'ap': average_precision(clean, score[rows]),
            **{f'leak_{percent}': leak_at(percent, score, score[rows]) for percent in CUTS},
        }
        for attack, rows in poisons.items()
        if not np.isnan(score[rows]).all()
    }


def separation(side: np.ndarray, score: np.ndarray, poisons: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Compares a split with the truth.

    Args:
        side: Side of each pair, (N,).
        score: Similarity of each pair, (N,), NaN where it was not scored.
        poisons: Poisoned rows of each attack.

    Returns:
        - ``leak/<attack>``: fraction of the attack's poisons on the safe side;
        - ``risky_share/<attack>``: fraction on the risky side; the rest is dropped;
        - ``auroc/<attack>``, ``ap/<attack>``, ``leak_2/<attack>`` and ``leak_10/<attack>``: :func:`detection` by the
          score; missing if nothing was scored;
        - ``poisons``: number of poisons of all attacks on the safe side;
        - ``contamination``: poisons as a fraction of the safe side, 0 if it is empty.

        Nothing without an attack: pairs of unknown origin are not known to be clean.
    """
    if not poisons:
        return {}
    is_clean = mark_clean(len(side), poisons)
    is_safe = side == SAFE
    leaked = int((is_safe & ~is_clean).sum())
    sides = {'leak': is_safe, 'risky_share': side == RISKY}
    metrics = {
        f'{name}/{attack}': float(on[rows].mean())
        for name, on in sides.items()
        for attack, rows in poisons.items()
        if len(rows)
    }
    for attack, measured in detection(score, poisons).items():
        metrics |= {f'{name}/{attack}': value for name, value in measured.items() if not np.isnan(value)}
    return {**metrics, 'poisons': leaked, 'contamination': leaked / max(1, int(is_safe.sum()))}


def mark_clean(pairs: int, poisons: Mapping[str, np.ndarray]) -> np.ndarray:
    """Marks the pairs that no attack has poisoned, bool (N,)."""
    is_clean = np.ones(pairs, bool)
    for rows in poisons.values():
        is_clean[rows] = False
    return is_clean
