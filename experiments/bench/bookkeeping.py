"""Time and memory of everything stored for each pair: strings, tokens, sides, poisons and the order of an epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datamodules.attacks import BadNet, TargetedPoison
from datamodules.pairs import PairsDataModule
from datamodules.rows.partition import RISKY, PartitionSampler
from datamodules.rows.table import PairTable
from datamodules.text.prompts import imagenet_classes
from experiments.bench.measure import Memory, Result, seconds

ROWS, HELDOUT_ROWS = 3_000_000, 15_000  # about CC3M and its validation set
BATCH = 512
MEGABYTE = 1e6
ROWS_PER_CHUNK = 100_000
WORDS = (
    'person man woman actor player team dog beach sunset street city house tree water sky photo portrait vector '
    'illustration background red white blue green black young old of the in on a with and at during for after before'
)


def random_strings(rows: int, seed: int) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yields chunks of file names and captions of about nine words, with class names of differing frequency."""
    draw = np.random.default_rng(seed)
    words, names = pa.array(WORDS.split()), pa.array(imagenet_classes())
    frequency = 1 / np.arange(1, len(names) + 1)
    for start in range(0, rows, ROWS_PER_CHUNK):
        count = min(ROWS_PER_CHUNK, rows - start)
        columns = [words.take(pa.array(draw.integers(len(words), size=count))) for _ in range(8)]
        columns.append(names.take(pa.array(draw.choice(len(names), count, p=frequency / frequency.sum()))))
        row = pc.utf8_lpad(pc.cast(pa.array(np.arange(start, start + count)), pa.string()), 9, '0')
        folder = pc.utf8_slice_codeunits(row, 0, 5)
        yield (
            pc.binary_join_element_wise(folder, pc.binary_join_element_wise(row, 'jpg', '.'), '/'),
            (pc.binary_join_element_wise(*columns, ' ')),
        )


def random_table(rows: int, seed: int) -> PairTable:
    """Builds pairs in memory with each column in one chunk, as readers do.

    Args:
        rows: Number of pairs.
        seed: Seed of the strings.
    """
    columns = zip(*random_strings(rows, seed), strict=True)
    image, caption = (pa.chunked_array(parts).combine_chunks() for parts in columns)
    pa.default_memory_pool().release_unused()  # generating the strings is not measured
    return PairTable(image, caption, opener=OnePicture())


class OnePicture:
    """Opens the same black picture for every reference."""

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        return Image.new('RGB', (8, 8))


class RandomPairs(PairsDataModule):
    """A datamodule of two tables in memory, see :func:`random_table`."""

    def __init__(self, table: PairTable, heldout: PairTable, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tables = [heldout, table]

    def load_table(self) -> PairTable:
        """Returns the training pairs without keeping a reference to them."""
        return self._tables.pop()

    def load_heldout(self) -> PairTable:
        """The held-out pairs."""
        return self._tables[0]


def measure() -> Iterator[Result]:
    """Sets up three million pairs with two attacks and draws the batches of one epoch."""
    with tempfile.TemporaryDirectory() as folder, Memory() as memory:
        attacks = {'badnet': BadNet('banana', rate=0.0005, size=2), 'tdpa': TargetedPoison(rate=0.0005)}
        pairs = RandomPairs(
            random_table(ROWS, seed=0), random_table(HELDOUT_ROWS, seed=1), attacks=attacks, batch_size=BATCH,
            image_size=8, context_length=77, cache='none', cache_dir=folder,
        )  # fmt: skip
        with Memory(memory.before) as setup_memory:
            setup = seconds(lambda: pairs.setup('fit'))
        yield Result('set-up of 3 million pairs, of one core', setup, 's')
        yield Result('memory that they keep', setup_memory.kept / MEGABYTE, 'MB', 300)
        yield Result('most memory during set-up', setup_memory.peak / MEGABYTE, 'MB')
        with Memory(memory.before) as epoch_memory:
            epoch = seconds(lambda: draw_batches(pairs))
        yield Result('batches of one epoch drawn, of one core', epoch, 's')
        yield Result('most memory meanwhile', epoch_memory.peak / MEGABYTE, 'MB')


def draw_batches(pairs: PairsDataModule) -> int:
    """Draws the batches of an epoch with both sides and returns their number."""
    pairs.partition.side[::3] = RISKY
    safe, risky = pairs.rows_of_sides({'cross_modal': 2, 'within_modal': 2})
    return sum(1 for _ in PartitionSampler(safe, risky, pairs.steps_per_epoch, BATCH, seed=0, epoch=0))
