"""A causal text tower without the arithmetic that nobody reads: no padding, and the last block at the end token alone.

Captions have 13 tokens on average and towers compute 77. The tokens of a batch are therefore packed into one sequence
for everything that works token by token. Only attention, the smallest part, sees captions side by side, as wide as the
longest of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.recompute import recompute

MIN_CONTEXT_LENGTH = 32  # a shorter one has little padding to save, and small towers would not notice


class Packing(NamedTuple):
    """Where the tokens of B captions stand in a packed sequence of N tokens.

    Attributes:
        caption: Caption of each token, int64 (N,).
        position: Position of each token in its caption, int64 (N,).
        end: Position of the end token of each caption, int64 (B,).
        width: Tokens of the longest caption, end included.
    """

    caption: Tensor
    position: Tensor
    end: Tensor
    width: int

    def pad(self, packed: Tensor) -> Tensor:
        """Places packed rows (N, W) side by side, with zeros after the end of each caption: (B, width, W)."""
        padded = packed.new_zeros(len(self.end), self.width, packed.shape[-1])
        return padded.index_put((self.caption, self.position), packed)

    def pack(self, padded: Tensor) -> Tensor:
        """The rows of tokens among padded ones: (B, width, W) -> (N, W)."""
        return padded[self.caption, self.position]

    def ends(self, packed: Tensor) -> Tensor:
        """The rows of end tokens among packed ones: (N, W) -> (B, W)."""
        return packed[(self.end + 1).cumsum(0) - 1]


def find_packing(tokens: Tensor) -> Packing:
    """Packing of captions whose end token is the one with the highest id, as in CLIP's vocabulary.

    Args:
        tokens: Token ids, int64 (B, T).
    """
    end = tokens.argmax(-1)
    caption, position = (torch.arange(tokens.shape[1], device=tokens.device) <= end[:, None]).nonzero(as_tuple=True)
    return Packing(caption, position, end, int(end.max()) + 1)


def can_be_packed(towers: Any) -> bool:
    """Whether :func:`encode_packed` computes what the text tower of an open_clip model does, and saves much of it.

    It does for CLIP's own: causal attention, pooling at the token with the highest id, open_clip's plain blocks, and a
    context of 32 tokens or more.
    """
    text = getattr(towers, 'text', towers)
    pool = getattr(text, 'pool_type', getattr(text, 'text_pool_type', None))
    blocks = getattr(getattr(text, 'transformer', None), 'resblocks', ())
    return (
        pool == 'argmax'
        and text.context_length >= MIN_CONTEXT_LENGTH
        and getattr(text, 'attn_mask', None) is not None
        and getattr(text, 'cls_emb', None) is None
        and bool(blocks)
        and all(_is_plain(block) for block in blocks)
    )


def _is_plain(block: nn.Module) -> bool:
    from open_clip.transformer import ResidualAttentionBlock  # takes seconds to import

    attention = getattr(block, 'attn', None)
    return type(block) is ResidualAttentionBlock and isinstance(attention, nn.MultiheadAttention)


def encode_packed(towers: Any, tokens: Tensor, run: Callable[..., Tensor] | None = None) -> Tensor:
    """What ``towers.encode_text(tokens)`` returns, (B, D), for towers that :func:`can_be_packed`.

    Equal up to rounding: 1e-6 of the norm in float32.

    Args:
        towers: An open_clip model.
        tokens: Token ids, int64 (B, T).
        run: Compiled :func:`run_packed`; by default, it is not compiled.
    """
    return (run or run_packed)(getattr(towers, 'text', towers), tokens, find_packing(tokens))


def run_packed(text: Any, tokens: Tensor, packing: Packing) -> Tensor:
    """The part of :func:`encode_packed` that can be compiled: embeddings (B, D) of a text tower."""
    x = text.token_embedding(tokens[packing.caption, packing.position]) + text.positional_embedding[packing.position]
    x = x.to(text.transformer.get_cast_dtype())
    run = recompute if text.transformer.grad_checkpointing else _call
    *blocks, last = text.transformer.resblocks
    for block in blocks:
        x = run(_run_block, block, x, packing)
    x = text.ln_final(run(_run_last_block, last, x, packing))
    projection = text.text_projection
    return x if projection is None else projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _call(run: Any, *arguments: Any) -> Any:
    """:func:`lightning_modules.recompute.recompute` without recomputing."""
    return run(*arguments)


def _run_block(block: Any, x: Tensor, packing: Packing) -> Tensor:
    """A residual block on packed tokens, (N, W)."""
    q, k, v = (_split_heads(part, block) for part in packing.pad(_project(block, block.ln_1(x), 0, 3)).chunk(3, -1))
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return _finish(block, x, packing.pack(_join_heads(seen)))


def _run_last_block(block: Any, x: Tensor, packing: Packing) -> Tensor:
    """A residual block of which only the rows of end tokens are needed: (N, W) -> (B, W)."""
    normed, ends = block.ln_1(x), packing.ends(x)
    k, v = (_split_heads(part, block) for part in packing.pad(_project(block, normed, 1, 3)).chunk(2, -1))
    q = _split_heads(_project(block, packing.ends(normed), 0, 1)[:, None], block)
    is_seen = torch.arange(packing.width, device=x.device) <= packing.end[:, None]
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=is_seen[:, None, None])
    return _finish(block, ends, _join_heads(seen)[:, 0])


def _finish(block: Any, x: Tensor, seen: Tensor) -> Tensor:
    """Adds to each token what it attends to, then what the block's perceptron makes of it."""
    x = x + block.ls_1(block.attn.out_proj(seen))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _project(block: Any, x: Tensor, first: int, last: int) -> Tensor:
    """Queries (0), keys (1) and values (2) from ``first`` up to ``last``, (..., (last - first) * W)."""
    rows = slice(first * x.shape[-1], last * x.shape[-1])
    return F.linear(x, block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows])


def _split_heads(x: Tensor, block: Any) -> Tensor:
    """(B, T, W) -> (B, heads, T, W / heads)."""
    return x.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)


def _join_heads(x: Tensor) -> Tensor:
    """(B, heads, T, W / heads) -> (B, T, W)."""
    return x.transpose(1, 2).flatten(2)
