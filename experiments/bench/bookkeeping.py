"""Time and memory of everything that is kept for each pair: strings, tokens, sides, poisons, the order of an epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from datamodules.attacks import BadNet, TargetedPoison
from datamodules.captions import imagenet_classes
from datamodules.images import ArrayImages
from datamodules.pairs import PairsDataModule
from datamodules.partition import PartitionSampler
from datamodules.table import PairTable
from experiments.bench.measure import Memory, Result, anonymous_memory, seconds

ROWS, HELDOUT_ROWS = 3_000_000, 12_000  # CC3M has 3.3 million pairs and 15,840 more for validation
BATCH = 512
MEGABYTE = 1e6
_AT_ONCE = 100_000
_WORDS = (
    'person man woman actor player team dog beach sunset street city house tree water sky photo portrait vector '
    'illustration background red white blue green black young old of the in on a with and at during for after before'
)


def random_strings(rows: int, seed: int) -> Iterator[tuple[pa.Array, pa.Array]]:
    """File names and captions of nine or ten words in pieces; the classes that they name differ in frequency."""
    draw = np.random.default_rng(seed)
    words, names = pa.array(_WORDS.split()), pa.array(imagenet_classes())
    frequency = 1 / np.arange(1, len(names) + 1)
    for start in range(0, rows, _AT_ONCE):
        count = min(_AT_ONCE, rows - start)
        columns = [words.take(pa.array(draw.integers(len(words), size=count))) for _ in range(8)]
        columns.append(names.take(pa.array(draw.choice(len(names), count, p=frequency / frequency.sum()))))
        row = pc.utf8_lpad(pc.cast(pa.array(np.arange(start, start + count)), pa.string()), 9, '0')
        folder = pc.utf8_slice_codeunits(row, 0, 5)
        yield pc.binary_join_element_wise(folder, pc.binary_join_element_wise(row, 'jpg', '.'), '/'), (
            pc.binary_join_element_wise(*columns, ' ')
        )


class RandomPairs(PairsDataModule):
    """As many pairs as CC3M has, without pictures; the held-out ones share one."""

    def load_table(self) -> PairTable:
        """The training pairs."""
        images, captions = (pa.chunked_array(parts) for parts in zip(*random_strings(ROWS, seed=0), strict=True))
        return PairTable(images, captions, opener=ArrayImages(np.empty((0, 1, 1, 3), np.uint8)))

    def load_heldout(self) -> PairTable:
        """The held-out pairs."""
        (strings,) = random_strings(HELDOUT_ROWS, seed=1)
        opener = ArrayImages(np.zeros((HELDOUT_ROWS, 8, 8, 3), np.uint8))
        return PairTable([str(row) for row in range(HELDOUT_ROWS)], strings[1], opener=opener)


def measure() -> Iterator[Result]:
    """Sets up three million pairs with two attacks and draws the batches of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = RandomPairs(
            batch_size=BATCH, image_size=8, context_length=77, cache='none', cache_dir=folder,
            attacks={'badnet': BadNet('banana', rate=0.0005, size=2), 'tdpa': TargetedPoison(rate=0.0005)},
        )  # fmt: skip
        with Memory() as memory:
            setup = seconds(lambda: pairs.setup('fit'))
            kept = anonymous_memory() - memory.before
        yield Result('set-up of 3 million pairs', setup, 's')
        yield Result('memory kept for them', kept / MEGABYTE, 'MB', 300)
        yield Result('most memory on the way', (memory.peak - memory.before) / MEGABYTE, 'MB')
        with Memory() as memory:
            epoch = seconds(lambda: batches(pairs))
        yield Result('batches of one epoch drawn', epoch, 's')
        yield Result('most memory on the way', (memory.peak - memory.before) / MEGABYTE, 'MB')


def batches(pairs: PairsDataModule) -> int:
    """Draws the batches of an epoch with both sides and counts them."""
    pairs.partition.side[torch.arange(0, len(pairs.partition), 3)] = 1
    safe, risky = pairs.rows_of_sides({'safe': 2, 'risky': 2})
    return sum(1 for _ in PartitionSampler(safe, risky, pairs.steps_per_epoch, BATCH, seed=0, epoch=0))
