"""What pairs that are known not to match, or to match, say about a split: its leak, and a p-value for each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.bins import bin_edges
from callbacks.intervals import wilson_interval
from callbacks.separation import auroc
from datamodules.rows.partition import DROPPED, SAFE

Array = NDArray[np.floating]
CONFIDENCE = 0.998  # of the interval whose lower end is evident: a canary gives one false alarm in a thousand splits
SPREAD = 2.0  # captions differ: one canary may leak twice as much as shuffled pairs do before anything is learned
BLOCK = 1 << 16  # pairs at a time, which keeps memory small


@dataclass(frozen=True)
class Mismatches:
    """Pairs whose picture and caption are known not to match.

    Attributes:
        null: Similarities of shuffled pairs, ranked as the others are, (n,); no NaN.
        canaries: Rows of the poisons that the defender has planted, by name.
        compared: Share of the shuffled pairs that ``null`` holds; the captions of the others say nearly the same as
            their own. ``None`` if none was measured.
        trusted: Rows of the opposite: pairs that the user vouches for, int64 (T,). They are safe whatever is decided,
            and can anchor a mixture.
    """

    null: Array = field(default_factory=lambda: np.zeros(0))
    canaries: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    compared: float | None = None
    trusted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def p_values(self, score: Array) -> NDArray[np.float32]:
        """Share of mismatched pairs that are at least as similar as each pair, float32 (N,).

        It is the larger of two shares: of the shuffled pairs, and of the pairs of canaries, :func:`agreed_share` of
        what is evident from the few pairs of each, over :data:`SPREAD`. The smaller it is, the less the pair looks like
        a mismatched one. NaN where a pair has no score, and everywhere if nothing is known not to match.

        Args:
            score: Similarity of each pair, (N,), NaN where unknown.
        """
        null, canaries = np.sort(self.null), self._evident_curves(score)
        p = np.full(len(score), np.nan, np.float32)
        for start in range(0, len(score) if len(null) or canaries else 0, BLOCK):
            block = score[start : start + BLOCK]
            passing = (len(null) - np.searchsorted(null, block)) / max(1, len(null))
            if canaries:
                evident = [shares[len(values) - np.searchsorted(values, block)] for values, shares in canaries]
                passing = np.maximum(passing, agreed_share(evident) / SPREAD)
            p[start : start + BLOCK] = np.where(np.isnan(block), np.nan, passing)
        return p

    def _evident_curves(self, score: Array) -> list[tuple[Array, Array]]:
        """Similarities of the pairs of each canary, ascending, with the share that is evident if 0, 1, ... pass."""
        planted = [score[rows] for rows in self.canaries.values() if not np.isnan(score[rows]).all()]
        # One without a score is on no safe side, so it counts as less similar than all.
        return [(np.sort(np.nan_to_num(values, nan=-np.inf)), evident_shares(len(values))) for values in planted]

    def metrics(self, score: Array, side: NDArray[np.int8], threshold: float) -> dict[str, float]:
        """Leaks of a split, by the names under which they are logged.

        Args:
            score: Similarity of each pair, (N,), NaN where unknown.
            side: Side of each pair, (N,).
            threshold: Similarity of the least similar safe pair.

        Returns:
            ``partition/null_leak``: share of the shuffled pairs above the threshold, which estimates the leak of
            poisons that have not been learned. ``partition/null_auroc``: probability that a pair is more similar than
            a shuffled one. ``partition/null_compared``: share of the shuffled pairs whose captions differ enough to be
            compared. ``canary/leak/<name>``: share of a canary's pairs on the safe side, and ``canary/leak``, the
            largest of them; ``canary/evident_leak``, :func:`agreed_share` of what is evident of them. Those are missing
            without canaries. NaN where nothing is known.
        """
        metrics = {
            'partition/null_leak': float((self.null >= threshold).mean()) if len(self.null) else float('nan'),
            'partition/null_auroc': auroc(score[side != DROPPED], self.null),
            'partition/null_compared': float('nan') if self.compared is None else self.compared,
        }
        if self.canaries:
            leaks = {f'canary/leak/{name}': float((side[rows] == SAFE).mean()) for name, rows in self.canaries.items()}
            evident = [evident_shares(len(rows))[int((side[rows] == SAFE).sum())] for rows in self.canaries.values()]
            metrics |= leaks | {'canary/leak': max(leaks.values()), 'canary/evident_leak': float(agreed_share(evident))}
        return metrics

    def histogram(self, score: Array, threshold: float) -> dict[str, Any] | None:
        """How similar shuffled pairs are, small enough for a checkpoint.

        Args:
            score: Similarity of each pair, (N,), NaN where unknown; the bins cover these, too.
            threshold: Similarity of the least similar safe pair.

        Returns:
            ``edges`` of the bins, ascending floats (B + 1,), ``counts`` of the shuffled pairs between them (B,), the
            ``threshold``, and the ``leak``, the share of the shuffled pairs above it. ``None`` without shuffled pairs.
        """
        if not len(self.null):
            return None
        known = np.isfinite(score)
        low, high = score.min(where=known, initial=self.null.min()), score.max(where=known, initial=self.null.max())
        edges = bin_edges(float(low), float(high))
        counts = np.histogram(self.null, edges)[0]
        leak = float((self.null >= threshold).mean())
        return {'edges': edges.tolist(), 'counts': counts.tolist(), 'threshold': threshold, 'leak': leak}


def evident_shares(count: int) -> NDArray[np.float64]:
    """Lower bound of the true share if 0 to ``count`` of ``count`` pairs pass, (count + 1,), at :data:`CONFIDENCE`."""
    return np.array([wilson_interval(hits, count, CONFIDENCE)[0] for hits in range(count + 1)])


def agreed_share(shares: Sequence[Any]) -> Any:
    """The largest share that two canaries reach, or the share of the only one.

    A single canary may have a trigger that happens to look like what its word names, before anything is learned.

    Args:
        shares: Shares of each canary, numbers or arrays of one shape.
    """
    return np.sort(np.stack(shares), axis=0)[-min(2, len(shares))]
