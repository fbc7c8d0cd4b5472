"""The pool in which an example's nearest neighbor is sought (Eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datamodules.usage_error import UsageError


class NeighborPool(nn.Module):
    """Ring buffer of the latest unit-norm embeddings; the oldest make room.

    The paper starts it from random examples, the released code from noise of norm 32 that the loss sees until
    it is overwritten; this one starts empty and an example is its own neighbor until there is another.
    Rows, position and fill are buffers: a checkpoint holds them.

    Args:
        size: Embeddings that fit.
        dim: Width D of an embedding.
    """

    rows: Tensor
    position: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise UsageError(f'pool_size must be at least 1, got {size}.')
        self.register_buffer('rows', torch.zeros(size, dim))
        self.register_buffer('position', torch.zeros((), dtype=torch.int64))
        self.register_buffer('filled', torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def nearest(self, query: Tensor) -> Tensor:
        """The pool's row with the largest cosine to each query, (b, D); the query itself while the pool is empty."""
        if not self.filled:
            return query.detach()
        similarity = query.float() @ self.rows[: int(self.filled)].T
        return self.rows[similarity.argmax(1)]

    @torch.no_grad()
    def enqueue(self, embedding: Tensor) -> None:
        """Puts unit-norm embeddings of all processes, (B, D), in place of the oldest; only the last ``size`` count."""
        size = len(self.rows)
        place = (self.position + torch.arange(len(embedding), device=self.rows.device)) % size
        kept = slice(max(0, len(embedding) - size), None)
        self.rows[place[kept]] = embedding.detach().float()[kept]
        self.position.copy_((self.position + len(embedding)) % size)
        self.filled.copy_((self.filled + len(embedding)).clamp(max=size))
