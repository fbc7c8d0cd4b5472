"""Memory and time of what grows with the square of a batch, in tiles and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.measure import Memory, Result, in_new_process, seconds
from lightning_modules.losses import info_nce
from lightning_modules.neighbor_pool import NeighborPool

BATCH, WIDTH = 16_384, 512
POOL, QUERIES, POOL_WIDTH = 65_536, 4096, 1024
LOGIT_SCALE = 100.0  # the largest of CLIP
MEGABYTE = 1e6


class Cost(NamedTuple):
    """What a call takes.

    Attributes:
        memory: Most memory beside its inputs, in bytes.
        time: CPU seconds of one core.
    """

    memory: int
    time: float


def measure() -> Iterator[Result]:
    """Measures CLIP's loss of a large batch, then the search for neighbors in a large pool, each once."""
    plain, tiled = (in_new_process(cost_of_loss, BATCH, WIDTH, tile_size) for tile_size in (BATCH, None))
    loss = f'loss and gradient of {BATCH:,} pairs of width {WIDTH}, in tiles'
    yield Result(f'{loss}: most memory over that without', tiled.memory / plain.memory, target=1 / 4)
    yield Result(f'{loss}: most memory', tiled.memory / MEGABYTE, 'MB')
    yield Result(f'{loss}: time over that without', tiled.time / plain.time, target=1.4)
    search, product = (
        in_new_process(cost_of, POOL, QUERIES, POOL_WIDTH) for cost_of in (cost_of_search, cost_of_product)
    )
    what = f'neighbors of {QUERIES:,} embeddings in a pool of {POOL:,} of width {POOL_WIDTH}'
    yield Result(f'{what}: most memory beside both', search.memory / MEGABYTE, 'MB', 200)
    yield Result(f'{what}: time over a plain matrix product', search.time / product.time, target=1.2)


def cost_of_loss(pairs: int, width: int, tile_size: int | None) -> Cost:
    """Cost of CLIP's loss and its gradients; a tile of all pairs is the loss without tiles."""
    image, text = (random_rows(pairs, width, seed).requires_grad_() for seed in (0, 1))
    scale = torch.tensor(LOGIT_SCALE, requires_grad=True)
    return cost(lambda: info_nce(image, text, scale, tile_size=tile_size).backward())


def cost_of_search(size: int, queries: int, width: int) -> Cost:
    """Cost of the neighbors of some embeddings in a full pool."""
    pool, query = NeighborPool(size, width), random_rows(queries, width, 0)
    pool.enqueue(random_rows(size, width, 1))
    return cost(lambda: pool.nearest(query))


def cost_of_product(size: int, queries: int, width: int) -> Cost:
    """Cost of all inner products of some embeddings with those of a pool."""
    query, rows = random_rows(queries, width, 0), random_rows(size, width, 1)
    return cost(lambda: query @ rows.T)


def random_rows(rows: int, width: int, seed: int) -> Tensor:
    """Random rows of unit norm, (rows, width)."""
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def cost(call: Callable[[], object]) -> Cost:
    """Cost of a call on one core."""
    torch.set_num_threads(1)
    torch.ones(64, 64) @ torch.ones(64, 64)  # what the library keeps from its first product on
    with Memory() as memory:
        time = seconds(call)
    return Cost(memory.peak, time)
