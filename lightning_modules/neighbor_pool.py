"""The pool in which an example's nearest neighbor is looked up (SafeCLIP, Eq. 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.usage_error import UsageError
from lightning_modules.tiles import tiles

PoolSize = int | Literal['auto']
MAX_AUTO_SIZE = 65_536  # embeddings
AUTO_SHARE_OF_PAIRS = 0.02
MIN_AUTO_BATCHES = 4


class NeighborPool(nn.Module):
    """Ring buffer of the latest unit-norm embeddings; new ones replace the oldest.

    The paper fills it with random examples at the start. The released code fills it with noise of norm 32, which the
    loss sees until it is overwritten. This pool starts empty, and an example is its own neighbor until there is
    another. Rows, position and fill are buffers, so that a checkpoint holds them.

    Args:
        size: Number of embeddings that fit.
        dim: Width D of an embedding.
        dtype: Type of its numbers; an integer for tokens, which are kept beside the embeddings of their captions.
    """

    rows: Tensor
    position: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if size < 1:
            raise UsageError(f'pool_size must be at least 1, got {size}.')
        self.register_buffer('rows', torch.zeros(size, dim, dtype=dtype))
        self.register_buffer('position', torch.zeros((), dtype=torch.int64))
        self.register_buffer('filled', torch.zeros((), dtype=torch.int64))
        self._known_place: tuple[int, int] | None = None

    @property
    def _place(self) -> tuple[int, int]:
        """``position`` and ``filled`` as numbers. The host remembers them: to ask a device is to wait for its work."""
        if self._known_place is None:
            self._known_place = int(self.position), int(self.filled)
        return self._known_place

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._known_place = None
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def nearest(self, query: Tensor, tile_size: int | None = None) -> tuple[Tensor, Tensor]:
        """Finds the embedding with the largest cosine to each query.

        Args:
            query: Unit-norm embeddings, (b, D).
            tile_size: Queries whose cosines are in memory at a time, as for :func:`lightning_modules.tiles.tiles`.

        Returns:
            The neighbors, (b, D), and their index in the pool, int64 (b,). While the pool is empty, the queries
            themselves and -1.
        """
        _, filled = self._place
        if not filled:
            return query.detach(), torch.full((len(query),), -1, device=query.device)
        rows, parts = self.rows[:filled], tiles(len(query), filled, tile_size)
        index = torch.cat([(query[part].float() @ rows.T).argmax(1) for part in parts])
        return self.rows[index], index

    @torch.no_grad()
    def enqueue(self, embedding: Tensor) -> None:
        """Replaces the oldest rows by unit-norm embeddings of all processes, (B, D), or the last ``size`` of them."""
        size, count = len(self.rows), len(embedding)
        position, filled = self._place
        index = (torch.arange(count, device=self.rows.device) + position) % size
        kept = slice(max(0, count - size), None)
        self.rows[index[kept]] = embedding.detach().to(self.rows.dtype)[kept]
        self._known_place = (position + count) % size, min(filled + count, size)
        for buffer, value in zip((self.position, self.filled), self._known_place, strict=True):
            buffer.fill_(value)


class NeighborPools(nn.ModuleDict):
    """The pools of a module by modality. They choose their size, and answer for checkpoints and DDP.

    A module keeps them in its attribute ``pools``, empty until training starts:

        def setup(self, stage):
            if stage == 'fit':
                self.pools = NeighborPools.for_data(('text',), self.pool_size, self.width, pairs, batch_size)
                self._ddp_params_and_buffers_to_ignore = self.pools.buffer_names('pools')

        def on_load_checkpoint(self, checkpoint):
            self.pools.adopt(checkpoint['state_dict'], 'pools', is_training=self.trainer.state.fn == 'fit')
    """

    def __getitem__(self, name: str) -> NeighborPool:
        pool: Any = super().__getitem__(name)
        return pool

    @classmethod
    def for_data(cls, names: Iterable[str], size: PoolSize, dim: int, pairs: int, batch_size: int) -> NeighborPools:
        """Makes empty pools for a data set; none if ``size`` is 0.

        Args:
            names: What the pools hold, such as ``image`` and ``text``.
            size: Number of embeddings in each; ``auto`` for :func:`auto_pool_size`.
            dim: Width D of an embedding.
            pairs: Number of pairs in the data set.
            batch_size: Number of pairs in a batch over all processes.

        Raises:
            UsageError: If a pool would be smaller than a batch.
        """
        if size == 0:
            return cls()
        size = auto_pool_size(pairs, batch_size) if size == 'auto' else size
        if size < batch_size:
            raise UsageError(
                f'model.pool_size={size} is smaller than a batch of {batch_size}, so neighbors would come from the '
                f'latest batch alone: take at least data.batch_size, or auto.'
            )
        return cls({name: NeighborPool(size, dim) for name in names})

    def buffer_names(self, attribute: str) -> list[str]:
        """Names of all buffers within the module that keeps the pools as ``attribute``, for DDP to ignore.

        All processes gather the same embeddings, so their pools agree; DDP would send half a gigabyte at every step.
        """
        return [f'{attribute}.{name}' for name, _ in self.named_buffers()]

    def adopt(self, weights: Mapping[str, Tensor], attribute: str, *, is_training: bool) -> None:
        """Prepares for loading a checkpoint, whose pools may have another size.

        Outside training the data may be another set, so the pools take the size that they have in the checkpoint.

        Args:
            weights: The checkpoint's ``state_dict``.
            attribute: Name of the attribute that keeps the pools.
            is_training: Whether the checkpoint is loaded to resume training.

        Raises:
            UsageError: If training would resume with pools of another size.
        """
        stored = _shapes(weights, f'{attribute}.')
        current = _shapes(self.state_dict(), '')
        if current == stored:
            return
        if current and is_training:
            size, stored_size = (next(iter(shapes.values()), (0,))[0] for shapes in (current, stored))
            raise UsageError(
                f'the checkpoint holds pools of {stored_size} embeddings and this run makes them {size}: resume with '
                f'the model.pool_size and data.batch_size of that run.'
            )
        self.clear()
        self.update({name: NeighborPool(*shape) for name, shape in stored.items()})


def auto_pool_size(pairs: int, batch_size: int) -> int:
    """Size of a pool by default: 2 % of the pairs, at least four batches, at most 65,536 embeddings."""
    return max(min(round(AUTO_SHARE_OF_PAIRS * pairs), MAX_AUTO_SIZE), MIN_AUTO_BATCHES * batch_size)


def _shapes(weights: Mapping[str, Tensor], prefix: str) -> dict[str, torch.Size]:
    """Shape of each pool's rows, by the pool's name."""
    return {
        name.removeprefix(prefix).removesuffix('.rows'): rows.shape
        for name, rows in weights.items()
        if name.startswith(prefix) and name.endswith('.rows')
    }
