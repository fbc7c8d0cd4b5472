"""Pictures and captions as points of a plane, near each other where a model finds them similar."""

from __future__ import annotations

import numpy as np

PERPLEXITY = 10  # scikit-learn's 30 is a lot for the sixty points of ten pictures with five captions


def map_embeddings(image: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places pictures and captions by t-SNE, as in Fig. 6 of the MEM paper; the same at every call.

    Args:
        image: Embeddings of the pictures, (P, D).
        text: Embeddings of the captions, (N, D), with P + N more than ten.

    Returns:
        Places of the pictures, (P, 2), and of the captions, (N, 2).
    """
    from sklearn.manifold import TSNE  # takes a second

    places = TSNE(2, perplexity=PERPLEXITY, random_state=0).fit_transform(np.concatenate([image, text]))
    return places[: len(image)], places[len(image) :]
