"""Ranks of the right answers of retrieval, by id: any number of captions of a picture, and of pictures of a caption.

No metric of a library is used: recall, precision, MRR and MAP of torchmetrics count a right answer with a similarity of
0 or less as wrong, and its metrics keep all similarities in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SCORES_AT_ONCE = 2**22  # similarities in memory, with their sorted copy and its indices about 100 MB
FEW_ANSWERS = 16  # assignments of answers up to which the similarities are not sorted
ROUNDING = 1e-9  # of shares of queries, where the chances of tied answers are added up


class Ranks(NamedTuple):
    """Where the best right answer of each query stands among all candidates, int64 (K, Q) each.

    The first of the K rows is for the true answers, the others for answers of another assignment.

    Attributes:
        ahead: Candidates that are more similar to the query than its best right answer.
        wrong_tied: Wrong candidates that are exactly as similar as it.
        right_tied: Right candidates that are exactly as similar as it, itself included.
    """

    ahead: Tensor
    wrong_tied: Tensor
    right_tied: Tensor


# --- ranks ----------------------------------------------------------------------------------------------------------


def right_captions(picture: NDArray[np.int64], meaning: NDArray[np.int64]) -> csr_array:
    """Which captions are right for which picture: those that say the same as a caption of the picture.

    Args:
        picture: Number of the picture of each pair, from 0 to P - 1, (N,).
        meaning: Number of what the caption of each pair says, from 0, (N,). Equal numbers are the same answer.

    Returns:
        Sparse bool array, (P, N).
    """
    from scipy.sparse import csr_array  # takes a second to import

    pairs = np.ones(len(picture), bool)
    said = csr_array((pairs, (picture, meaning)))
    saying = csr_array((pairs, (meaning, np.arange(len(meaning)))))
    return csr_array(said @ saying)


def rank_both_ways(image: Tensor, text: Tensor, right: csr_array, orders: NDArray[np.int64]) -> tuple[Ranks, Ranks]:
    """Ranks the captions of each picture among all captions, and the pictures of each caption among all pictures.

    Args:
        image: Embedding of each picture, (P, D).
        text: Embedding of each caption, (N, D).
        right: Which captions are right for which picture, (P, N); see :func:`right_captions`.
        orders: Permutations of the pictures, (K, P), for which the picture ``i`` is taken for ``orders[k][i]``. The
            first should be the identity.

    Returns:
        Ranks from picture to text, (K, P), and from text to picture, (K, N).
    """
    of_caption = right.T.tocsr()
    by_picture = [lambda rows, order=order: right[order[rows]] for order in orders]
    by_caption = [lambda rows, order=order: of_caption[rows][:, order] for order in orders]
    return rank_answers(image, text, by_picture), rank_answers(text, image, by_caption)


def rank_answers(
    queries: Tensor, candidates: Tensor, answers: Sequence[Callable[[NDArray[np.int64]], csr_array]]
) -> Ranks:
    """Ranks the best right answer of each query, in chunks of queries that hold a bounded number of similarities.

    An item without a finite embedding is ahead of all others as a candidate and never right. So the query of a diverged
    model comes in behind all candidates, instead of at a place that depends on how NaN is sorted.

    Args:
        queries: Embeddings of the queries, (Q, D).
        candidates: Embeddings of the candidates, (C, D).
        answers: K assignments, each of which gives the right candidates of some queries, sparse (q, C), at least one
            of each. Another assignment costs little, since the similarities are sorted once.
    """
    candidates = candidates.double().T
    parts = []
    for rows in torch.arange(len(queries)).split(max(1, SCORES_AT_ONCE // candidates.shape[1])):
        # In float32 the similarities of equal embeddings may differ in the last digit, and a collapsed model be ranked.
        scores = (queries[rows[0] : rows[-1] + 1].double() @ candidates).float()
        scores = scores.where(scores.isfinite(), torch.inf)
        parts.append(_rank(scores, (places_of(each(rows.numpy())) for each in answers)))
    return Ranks(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))


def _rank(scores: Tensor, places: Iterable[NDArray[np.int64]]) -> Ranks:
    """Ranks of q queries with similarities (q, C), for the places of their right answers, K of (q, A)."""
    found = [_best(scores, torch.from_numpy(each).to(scores.device)) for each in places]
    best, right_tied = (torch.stack(part, 1) for part in zip(*found, strict=True))
    ahead, tied = (_compare if best.shape[1] <= FEW_ANSWERS else _compare_sorted)(scores, best)
    ranks = Ranks(ahead, (tied - right_tied).clamp(min=0), right_tied)  # without a usable answer nothing is tied
    return Ranks(*(part.T.cpu() for part in ranks))


def _compare(scores: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores of each query, (q, C), are above and how many equal to each of its K limits, (q, K) each."""
    limits = [limit[:, None] for limit in best.T]
    above, equal = ([compare(scores, limit).sum(1) for limit in limits] for compare in (torch.gt, torch.eq))
    return torch.stack(above, 1), torch.stack(equal, 1)


def _compare_sorted(scores: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """The same for any number of limits: sorting takes as long as comparing with twenty-five of them."""
    ascending = scores.sort(1).values
    up_to, below = (torch.searchsorted(ascending, best, right=right) for right in (True, False))
    return scores.shape[1] - up_to, up_to - below


def _best(scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity of the best right answer of each query, (q,), and how many right answers have it."""
    own = scores.gather(1, places.clamp(min=0))
    own = own.masked_fill((places < 0) | own.isposinf(), -torch.inf)
    best = own.amax(1)
    return best, (own == best[:, None]).sum(1)


def places_of(answers: csr_array) -> NDArray[np.int64]:
    """Columns of the entries of each row, (q, A), filled up with -1.

    Example:
        >>> from scipy.sparse import csr_array
        >>> places_of(csr_array([[0, 1, 1], [1, 0, 0]])).tolist()
        [[1, 2], [0, -1]]
    """
    count = np.diff(answers.indptr)
    places = np.full((len(count), count.max()), -1)
    places[np.arange(places.shape[1]) < count[:, None]] = answers.indices
    return places


# --- what is made of them -------------------------------------------------------------------------------------------
# Tied candidates are taken in every order, each as likely as the others. So a model that gives all candidates the same
# similarity reaches exactly what chance does, and no number depends on a seed.


def hit_rate(ranks: Ranks, best: int | Tensor) -> Tensor:
    """Share of the queries with a right answer among the ``best`` most similar candidates, R@K, float64 (K,).

    Args:
        ranks: Ranks of the queries.
        best: Number of candidates, one for all or one for each assignment, (K,).
    """
    left = (torch.as_tensor(best)[..., None] - ranks.ahead).clamp(min=0)  # places for those that are tied
    hits = (left > ranks.wrong_tied).double()
    tied = (left > 0) & (left <= ranks.wrong_tied)
    hits[tied] = _chance_among_tied(*(x[tied].double() for x in (left, ranks.wrong_tied, ranks.right_tied)))
    return hits.mean(1)


def _chance_among_tied(places: Tensor, wrong: Tensor, right: Tensor) -> Tensor:
    """Probability that the first places of a random order hold one of the right ones: 1 - C(w, p) / C(w + r, p)."""
    everything = wrong + right
    of_wrong = torch.lgamma(wrong + 1) - torch.lgamma(wrong - places + 1)
    of_all = torch.lgamma(everything + 1) - torch.lgamma(everything - places + 1)
    return 1 - (of_wrong - of_all).exp()


def mean_rank(ranks: Ranks) -> Tensor:
    """Mean rank of the best right answer, from 1, float64 (K,); the first of r among w wrong ones is at w / (r + 1)."""
    return (1 + ranks.ahead + ranks.wrong_tied / (ranks.right_tied.double() + 1)).mean(1)


def rank_quantile(ranks: Ranks, share: float) -> Tensor:
    """Rank that a share of the queries does not exceed, float64 (K,); the median rank for 0.5.

    Between two ranks it is their mean, as a median is. The code of most papers rounds it down.
    """
    first = _first_rank(ranks, lambda rate: rate >= share - ROUNDING)
    return (first + _first_rank(ranks, lambda rate: rate > share + ROUNDING)) / 2


def _first_rank(ranks: Ranks, reaches: Callable[[Tensor], Tensor]) -> Tensor:
    """The least rank at which the share of the queries reaches something, int64 (K,), by bisection."""
    last = int((ranks.ahead + ranks.wrong_tied).max()) + 1
    low, high = (torch.full((len(ranks.ahead),), rank) for rank in (1, last))
    while bool((low < high).any()):
        middle = (low + high) // 2
        is_reached = reaches(hit_rate(ranks, middle))
        low, high = torch.where(is_reached, low, middle + 1), torch.where(is_reached, middle, high)
    return high


def tied_share(ranks: Ranks) -> Tensor:
    """Share of the queries whose best right answer is tied with a wrong one, float64 (K,)."""
    return (ranks.wrong_tied > 0).double().mean(1)
