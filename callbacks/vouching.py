"""Whether a model has been trained on the pairs that it is to judge.

A model vouches for what it has learned: pairs that it was trained on are similar to it, poisons among them.
"""

from __future__ import annotations

import lightning as L
import numpy as np

from datamodules.rows.pair_sketch import hash_pairs, share_in
from datamodules.rows.table import PairTable

MIN_SHARE = 0.01  # of pairs that a model has seen, from which on it is said; a few may share a name and a caption


def share_seen(model: L.LightningModule, table: PairTable, is_scored: np.ndarray) -> float | None:
    """Fraction of the scored pairs, bool (N,), that a model was trained on; ``None`` if that is not known."""
    sketches = getattr(model, 'trained_pairs', [])  # other modules know nothing
    return share_in(sketches, hash_pairs(table)[is_scored]) if sketches else None


def describe_seen(share: float | None) -> str:
    """What the share of pairs that a model has seen means for their scores; empty if there is nothing to say."""
    if share is None or share < MIN_SHARE:
        return ''
    return (
        f'The model was trained on about {share:.0%} of these pairs, and it vouches for poisons that it has learned: '
        f'their similarity can be high. Score the pairs with a model that was trained on others.'
    )
