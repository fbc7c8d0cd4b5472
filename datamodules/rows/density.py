"""How sparse the surroundings of a point are: what the nearest neighbors of points say about poisons.

The formulas are those of Huang et al. (ICLR 2025), "Detecting Backdoor Samples in Contrastive Language Image
Pretraining", who find that a backdoor's pictures are local outliers among the pictures of clean pairs. Each function
takes the distances of points to their k nearest other points, float (P, k), nearest first, and the numbers of these
neighbors, int (P, k), and returns a score of each point, (P,): the higher, the more suspicious.

All points must be distinct. A point with more copies than neighbors would be at distance 0 of all of them, so that
ratios of distances are 0 for the copies and infinite for the points around them. Score one of the copies for all:
:func:`datamodules.rows.embeddings.distinct` finds them.
"""

from __future__ import annotations

import numpy as np

RESOLUTION = 1e-3  # float16 rounds unit vectors by less; points closer than this are taken for this far apart


def k_distance(distance: np.ndarray) -> np.ndarray:
    """Distance to the k-th neighbor."""
    return distance[:, -1]


def slof(distance: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Simplified local outlier factor (Schubert et al., 2014): mean ratio of the k-distance to that of a neighbor."""
    own = np.maximum(k_distance(distance), RESOLUTION)
    return np.asarray((own[:, None] / own[index]).mean(1))


def intrinsic_dimension(distance: np.ndarray, largest: float = np.inf) -> np.ndarray:
    """Local intrinsic dimension of each point, by maximum likelihood (Levina & Bickel, 2004).

    Args:
        distance: Distances to the nearest points, (P, k).
        largest: Bound of the result, such as the dimensions of the space. Neighbors that are all equally distant
            would have infinitely many.
    """
    distance = np.maximum(distance, RESOLUTION).astype(np.float64)
    logarithms = np.log(distance[:, -1:] / distance).sum(1)
    return np.asarray(distance.shape[1] / np.maximum(logarithms, distance.shape[1] / largest))


def dao(distance: np.ndarray, index: np.ndarray, dimension: np.ndarray) -> np.ndarray:
    """Dimensionality-aware outlier factor (Anderberg et al., 2024) in its logarithmic form.

    Args:
        distance: Distances to the neighbors, (P, k).
        index: Numbers of the neighbors, (P, k).
        dimension: :func:`intrinsic_dimension` of each point, (P,).
    """
    own = np.log(np.maximum(k_distance(distance), RESOLUTION))
    return np.asarray((dimension[index] * (own[:, None] - own[index])).mean(1))


def lof(distance: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Local outlier factor (Breunig et al., 2000)."""
    reach = np.maximum(distance, np.maximum(k_distance(distance), RESOLUTION)[index])
    sparsity = reach.mean(1)
    return np.asarray(sparsity * (1 / sparsity[index]).mean(1))


def disagreement(caption: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Deep k-NN (Peri et al., 2020) with captions in place of labels: how unlike a caption is to those of neighbors.

    With one-hot vectors as captions, it is the share of the neighbors with another label.

    Args:
        caption: Embedding of the caption of each point, unit norm, (P, D).
        others: Embeddings of the captions of its neighbors, (P, k, D).

    Returns:
        1 less the mean cosine, (P,).
    """
    return np.asarray(1 - np.einsum('pd,pkd->p', caption, others) / others.shape[1])
