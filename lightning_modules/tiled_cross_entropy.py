"""The cross-entropy of a large batch in tiles, whose similarities are never all in memory.

A tile holds all similarities of some anchors, so its loss is complete, and its gradient is computed at once: three
matrix products, as many as without tiles. Nothing is kept for the backward pass but the gradients of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def tiled_cross_entropy(
    anchor: Tensor, candidate: Tensor, logit_scale: Tensor, first: int, parts: Sequence[slice]
) -> Tensor:
    """What :func:`lightning_modules.losses.one_way` returns, in float32 at least, also under autocast.

    Args:
        anchor: Unit-norm rows of this process, (b, D).
        candidate: Unit-norm rows of all processes, (B, D); row ``first + j`` is the positive of anchor j.
        logit_scale: Inverse temperature, scalar, also as the one entry of a vector.
        first: Index of this process's first row among the candidates.
        parts: Anchors of each tile; together all of them.
    """
    dtype = torch.promote_types(torch.promote_types(anchor.dtype, candidate.dtype), torch.float32)
    inputs = [tensor.to(dtype) for tensor in (anchor, candidate, logit_scale.reshape(()))]
    if not torch.is_grad_enabled():  # which the function itself cannot tell
        inputs = [tensor.detach() for tensor in inputs]
    with torch.autocast(anchor.device.type, enabled=False):
        return TiledCrossEntropy.apply(*inputs, first, parts)


class TiledCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while the similarities of a tile are at hand."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, candidate: Tensor, logit_scale: Tensor, first: int, parts: Sequence[slice]
    ) -> Tensor:
        of_anchor, of_candidate, of_scale = ctx.needs_input_grad[:3]
        pull = torch.empty_like(anchor) if of_anchor or of_scale else None
        push = torch.zeros_like(candidate) if of_candidate else None
        losses = [
            _add_tile(
                anchor[part], candidate, logit_scale, first + part.start, None if pull is None else pull[part], push
            )
            for part in parts
        ]
        scale = logit_scale / len(anchor)
        ctx.save_for_backward(
            None if pull is None else pull * scale,
            None if push is None else push.mul_(scale),
            None if pull is None else torch.sum(pull * anchor) / len(anchor),
        )
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        own = [None if tensor is None else gradient * tensor for tensor in ctx.saved_tensors]
        return *own, None, None


def _add_tile(
    anchor: Tensor, candidate: Tensor, logit_scale: Tensor, first: int, pull: Tensor | None, push: Tensor | None
) -> Tensor:
    """Losses of a tile's anchors, (t,).

    The error of a similarity is its softmax minus what it should be. Sums of candidates by it are written into ``pull``
    (t, D), sums of anchors by it are added to ``push`` (B, D), where these are given.
    """
    log_softmax = F.log_softmax(logit_scale * anchor @ candidate.T, 1)  # (t, B)
    row = torch.arange(len(anchor), device=anchor.device)
    losses = -log_softmax[row, first + row]
    if pull is None and push is None:
        return losses
    error = log_softmax.exp_()
    error[row, first + row] -= 1
    if pull is not None:
        torch.mm(error, candidate, out=pull)
    if push is not None:
        push.addmm_(error.T, anchor)
    return losses
