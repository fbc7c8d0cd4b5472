"""HotFlip (Ebrahimi et al., 2018): which words to try in a caption, by the first-order change of the loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def token_embeddings(towers: Any) -> Iterator[list[Tensor]]:
    """Collects what the text tower's embedding of tokens returns meanwhile, as leaves that have gradients.

    Args:
        towers: An open_clip model with a text tower of CLIP's kind.
    """
    leaves: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = embedding_of(towers).register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def embedding_of(towers: Any) -> nn.Embedding:
    """The layer of an open_clip model that embeds tokens."""
    embedding: nn.Embedding = getattr(towers, 'text', towers).token_embedding
    return embedding


def hotflip_scores(gradient: Tensor, embedding: Tensor) -> Tensor:
    """How much the loss falls, to first order, with each token in the place of the present one, up to a constant.

        -(E[w] - E[now]) . g = -E[w] . g + constant

    Args:
        gradient: Gradient of the loss with respect to the embedding in each slot, (B, n, W).
        embedding: Embeddings of the tokens to choose from, (A, W).

    Returns:
        Scores, float32 (B, n, A); the order within a slot does not depend on the present token.
    """
    return -gradient.float() @ embedding.float().T


def best_candidates(scores: Tensor, tokens: Tensor, count: int) -> Tensor:
    """The tokens of the highest scores, best first. Of equal scores the lowest token wins, on every device.

    Args:
        scores: Scores without NaN, (..., A).
        tokens: The token of each score, ascending, int64 (A,).
        count: Number of tokens; all of them if there are fewer.

    Returns:
        Tokens, int64 (..., min(count, A)).

    Example:
        >>> best_candidates(Tensor([0.5, 2.0, 2.0, 2.0]), Tensor([3, 5, 8, 9]).long(), 2).tolist()
        [5, 8]
    """
    count = min(count, scores.shape[-1])
    least = scores.topk(count).values[..., -1:]  # which of several equal ones topk takes is not defined
    above, equal = scores > least, scores == least
    is_kept = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    places = is_kept.nonzero()[:, -1].view(*scores.shape[:-1], count)  # ascending
    order = scores.gather(-1, places).sort(dim=-1, descending=True, stable=True).indices
    return tokens[places.gather(-1, order)]
