"""How far the similarities of a model can be believed, measured on shuffled pairs, and put into words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from callbacks.ledger import TELLS_ROUGHLY
from callbacks.separation import auroc
from callbacks.vouching import describe_seen

MAX_P = 0.05  # largest p-value of a pair that is kept in the estimate, as in docs/experiments.md
TELLS = 0.9  # separation from which on a model tells pairs that match; from TELLS_ROUGHLY on it tells them roughly
BY_HEART = 0.999  # separation from which on a model has learned every pair that it was trained on
BY_CHANCE = 0.5  # p-values above it are nearly all those of mismatched pairs


class Certainty(NamedTuple):
    """What shuffled pairs say about the similarities of pairs.

    Attributes:
        pairs: Number of pairs with a similarity.
        separation: Probability that a pair is more similar than a shuffled one; NaN if none was compared.
        mismatched: Estimated share of pairs that do not match, in [0, 1].
        kept: Number of pairs with a p-value of at most :data:`MAX_P`.
        passing: How many mismatched ones are expected among them.
        seen: Share of the pairs that the model was trained on, if that is known.
    """

    pairs: int
    separation: float
    mismatched: float
    kept: int
    passing: float
    seen: float | None


def judge(similarity: NDArray[np.float32], shuffled: NDArray[np.float32], seen: float | None) -> Certainty:
    """Estimates how many pairs do not match, and how many of these look as if they did.

    The p-value of a mismatched pair is uniform in [0, 1], and that of a pair that matches is small. So twice the share
    above one half estimates the mismatched ones (Storey, 2002), as long as the model has not learned them.

    Args:
        similarity: Similarity of each pair, (N,), no NaN.
        shuffled: Those of shuffled pairs, (n,), no NaN.
        seen: Share of the pairs that the model was trained on, if that is known.
    """
    if not len(shuffled):
        return Certainty(len(similarity), float('nan'), float('nan'), 0, float('nan'), seen)
    p = 1 - np.searchsorted(np.sort(shuffled), similarity) / len(shuffled)
    mismatched = min(1.0, float((p > BY_CHANCE).mean()) / (1 - BY_CHANCE))
    kept = int((p <= MAX_P).sum())
    passing = min(float(kept), MAX_P * mismatched * len(similarity))
    return Certainty(len(similarity), auroc(similarity, shuffled), mismatched, kept, passing, seen)


def describe(certainty: Certainty) -> list[str]:
    """What that means, a sentence or two at a time."""
    vouches = describe_seen(certainty.seen)
    if vouches and certainty.separation > BY_HEART:
        return [f'This model has learned the pairs by heart, so its similarities cannot tell which match. {vouches}']
    estimate = _describe_mismatched(certainty) if certainty.separation >= TELLS_ROUGHLY else ''
    return [each for each in (_describe_separation(certainty.separation), vouches, estimate) if each]


def _describe_separation(separation: float) -> str:
    if np.isnan(separation):
        return 'No two captions look different to the model, so it cannot tell which pairs match.'
    compared = f'In {separation:.0%} of comparisons, it finds a pair more similar than a picture with another caption.'
    if separation < TELLS_ROUGHLY:
        return f'This model cannot tell which pairs match: do not read anything into its similarities. {compared}'
    if separation < TELLS:
        return f'This model tells only roughly which pairs match. {compared}'
    return f'This model tells pairs that match from pairs that do not. {compared}'


def _describe_mismatched(certainty: Certainty) -> str:
    count = round(certainty.mismatched * certainty.pairs)
    share = certainty.passing / max(1, certainty.kept)
    return (
        f'About {count:,} of {certainty.pairs:,} pairs ({certainty.mismatched:.1%}) look as if picture and caption do '
        f'not belong together. If you keep those with a p-value of at most {MAX_P:g}, you keep {certainty.kept:,}, '
        f'among them about {certainty.passing:,.0f} such pairs ({share:.1%}), unless the model has learned them.'
    )
