"""Shuffled pairs: pictures compared with the captions of other pairs, which shows how similar mismatched pairs are.

A poison pairs a picture with a caption that does not describe it. Until the model has learned it, its similarity is
that of any other mismatched pair. So the share of shuffled pairs above a threshold estimates, without any truth, the
share of poisons above it. Once a trigger has been learned, shuffled pairs no longer show it; canaries may.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from datamodules.rows.draws import bits, permutation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SHUFFLES = 5  # captions that each picture of the sample is compared with
SAMPLE = 4096  # pairs in the sample; their embeddings take 34 MB in 512 dimensions and two views
SAME_CAPTION = 0.9  # cosine of the embeddings of two captions above which one may well describe the other's picture
SAME_WORDS = (
    0.1  # the same of their words; a class name in common reaches 0.3 and more, an article or a preposition 0.05
)
SAMPLE_KEY = 0x6E75_6C6C  # key of the draw; arbitrary, but a change would change splits


def draw_sample(rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Draws up to ``SAMPLE`` rows, in random order, so that neighbors in the sample are unrelated, int64 (S,).

    Args:
        rows: Rows to draw from, ascending; the draw depends on nothing else.
    """
    if len(rows) <= SAMPLE:
        return rows[permutation(len(rows), SAMPLE_KEY)].astype(np.int64)
    drawn = bits(4 * SAMPLE, SAMPLE_KEY) % np.uint64(len(rows))  # with repetitions, to need no memory for all rows
    _, first = np.unique(drawn, return_index=True)
    return rows[drawn[np.sort(first)][:SAMPLE].astype(np.int64)].astype(np.int64)


class ShuffledPairs:
    """Collects the embeddings of a sample of pairs during a sweep, then compares pictures with others' captions.

    Args:
        rows: Rows of the sample, in random order, (S,).
        tokens: Tokens of their captions, (S, T).

    Attributes:
        rows: The same.
    """

    def __init__(self, rows: NDArray[np.int64], tokens: NDArray[np.integer]) -> None:
        self.rows = rows
        self._words = weigh_words(tokens)
        self._ascending, self._place = torch.sort(torch.from_numpy(rows))
        self._embeddings: Tensor | None = None  # of pictures and captions, (2, V, S, D)

    def add(self, output: Mapping[str, Tensor]) -> None:
        """Keeps the embeddings of the sampled rows of a batch.

        Args:
            output: What ``predict_step`` returned: ``row`` (B,), and ``views``, unit-norm embeddings of all views of
                pictures and captions, (2, V, B, D). Nothing is kept of a module that returns no ``views``.
        """
        if (views := output.get('views')) is None:
            return
        row = output['row'].cpu()
        place = torch.searchsorted(self._ascending, row).clamp(max=len(self.rows) - 1)
        is_sampled = self._ascending[place] == row
        if self._embeddings is None:
            shape = *views.shape[:2], len(self.rows), views.shape[-1]
            self._embeddings = torch.zeros(shape, device=views.device)
        self._embeddings[:, :, self._place[place[is_sampled]]] = views[:, :, is_sampled].float()

    @property
    def is_measured(self) -> bool:
        """Whether any pair was swept, once :meth:`similarities` has asked all processes."""
        return self._embeddings is not None

    def similarities(self, trainer: L.Trainer) -> Tensor:
        """Similarity of each sampled picture to the captions of ``SHUFFLES`` other pairs, averaged over views.

        Returns:
            Cosines in [-1, 1], float32 (SHUFFLES * S,), on the CPU, the same on all processes. NaN where one caption
            may well describe both pictures, as their words or their embeddings agree, or where a pair was not swept.
            The k-th value always belongs to the same two pairs, so it can be followed from split to split. All are
            NaN if nothing was swept.
        """
        shape = None if self._embeddings is None else tuple(self._embeddings.shape)
        if (shape := trainer.strategy.broadcast(shape)) is None:  # rank 0 has pairs if any rank has
            return torch.full((SHUFFLES * len(self.rows),), float('nan'))
        if self._embeddings is None:
            self._embeddings = torch.zeros(shape, device=trainer.strategy.root_device)
        image, text = trainer.strategy.reduce(self._embeddings, reduce_op='sum')
        return shuffled_similarities(image, text, self._words).cpu()


def shuffled_similarities(image: Tensor, text: Tensor, words: csr_array) -> Tensor:
    """Similarity of each picture to the captions of ``SHUFFLES`` other pairs, as :meth:`ShuffledPairs.similarities`.

    Args:
        image: Unit-norm embeddings of the views of the pictures, (V, S, D), in random order; zero where unknown.
        text: The same of the captions.
        words: What :func:`weigh_words` returns for the captions.
    """
    shifts = range(1, SHUFFLES + 1)
    null = torch.cat([compare_with_others(image, text, shift) for shift in shifts])
    has_same_words = np.concatenate([agreement_of_words(words, shift) > SAME_WORDS for shift in shifts])
    return null.masked_fill(torch.from_numpy(has_same_words).to(null.device), float('nan'))


def compare_with_others(image: Tensor, text: Tensor, shift: int) -> Tensor:
    """Similarity of each picture to the caption of the pair ``shift`` places further on.

    Args:
        image: Unit-norm embeddings of the views of the pictures, (V, S, D); zero where unknown.
        text: The same of the captions.
        shift: How many places further on, at least 1.

    Returns:
        Cosine, averaged over views, (S,); NaN where a caption is nearly the same as the other, or unknown.
    """
    other = text.roll(-shift, 1)
    agreement = F.cosine_similarity(text.mean(0), other.mean(0), dim=-1)
    is_known = image[0].any(-1) & other[0].any(-1)
    return (image * other).sum(-1).mean(0).masked_fill((agreement > SAME_CAPTION) | ~is_known, float('nan'))


def weigh_words(tokens: NDArray[np.integer]) -> csr_array:
    """Unit-norm vectors of the words of captions, each weighted by how rare it is (inverse document frequency).

    Args:
        tokens: Tokens of captions, (S, T).

    Returns:
        Sparse array, (S, W). A word of all captions, as is the padding, has no weight.
    """
    from scipy.sparse import csr_array  # takes a second to import
    from sklearn.preprocessing import normalize

    captions, length = tokens.shape
    places = (np.repeat(np.arange(captions), length), tokens.ravel())
    words = csr_array((np.ones(tokens.size), places))  # which adds up a word's occurrences
    words.data[:] = 1
    frequency = np.maximum(1, words.sum(0))
    return normalize(words * np.log(captions / frequency))


def agreement_of_words(words: csr_array, shift: int) -> NDArray[np.float64]:
    """Cosine in [0, 1] of the words of each caption and of the one ``shift`` places further on, (S,)."""
    return (words * words[np.roll(np.arange(words.shape[0]), -shift)]).sum(1)
