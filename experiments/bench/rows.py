"""Time and private memory of what is kept for each pair, for four times the pairs of CC3M and for columns alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.ledger import FILE, ledger_parts, write_ledger
from callbacks.repartition import SafeRiskyRepartition
from callbacks.scores import Rows, Score
from callbacks.shuffled_pairs import ShuffledPairs
from callbacks.sweep import RowSums
from datamodules.attacks import BadNet, TargetedPoison
from datamodules.attacks.base import Poisoning
from datamodules.contracts import pairs_of
from datamodules.files.arrow_cache import stored_table
from datamodules.files.reading import column
from datamodules.files.shared_columns import share_columns
from datamodules.pairs import PairsDataModule
from datamodules.rows.partition import COLUMNS, Partition, PartitionSampler
from datamodules.rows.table import PairTable
from experiments.bench.bookkeeping import BATCH, HELDOUT_ROWS, MEGABYTE, OnePicture, random_strings, random_table
from experiments.bench.measure import Memory, Result, in_new_process, seconds

PAIRS = 12_000_000  # about CC12M; a quarter of them is CC3M
COLUMNS_ALONE = 100_000_000
SWEEP_BATCH, WIDTH = 4096, 16
STRINGS = 'strings.arrow'


class Cost(NamedTuple):
    """What the bookkeeping of a set takes.

    Attributes:
        memory: Most private memory beside that of the interpreter, in bytes.
        setup: CPU seconds of the set-up.
        split: Of a split, without the model.
        epoch: Of drawing the batches of an epoch.
        ledger: Of writing the ledger.
    """

    memory: int
    setup: float
    split: float
    epoch: float
    ledger: float = 0.0

    @property
    def time(self) -> float:
        """CPU seconds of set-up, split and epoch."""
        return self.setup + self.split + self.epoch


def measure() -> Iterator[Result]:
    """Measures pairs with captions, attacks and ledger, then columns alone, each beside a quarter of them."""
    with tempfile.TemporaryDirectory() as folder:
        some, all_pairs = (in_new_process(cost_of_pairs, folder, rows) for rows in (PAIRS // 4, PAIRS))
        yield from results(f'{PAIRS:,} pairs', all_pairs, 500)
        yield Result('… ledger written, of one core', all_pairs.ledger, 's')
        yield Result(f'… time of the first three over that of {PAIRS // 4:,}', all_pairs.time / some.time, target=4)
        some, all_pairs = (in_new_process(cost_of_columns, folder, n) for n in (COLUMNS_ALONE // 4, COLUMNS_ALONE))
        yield from results(f'columns of {COLUMNS_ALONE:,} pairs', all_pairs, 1500)
        yield Result(f'… time of the three over that of {COLUMNS_ALONE // 4:,}', all_pairs.time / some.time, target=4.4)


def results(what: str, cost: Cost, most: int) -> Iterator[Result]:
    """Lines of the table about a set that may take so many megabytes."""
    yield Result(f'{what}: most private memory', cost.memory / MEGABYTE, 'MB', most)
    for part, time in (('set-up', cost.setup), ('a split', cost.split), ('batches of an epoch drawn', cost.epoch)):
        yield Result(f'… {part}, of one core', time, 's')


def cost_of_pairs(folder: str, rows: int) -> Cost:
    """Cost of pairs whose captions are in a mapped file, as those of shards, with two attacks."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        in_new_process(write_strings, own, rows)
        torch.set_num_threads(1)
        heldout = random_table(max(HELDOUT_ROWS, rows // 200), seed=1)  # where attacks take their pictures
        with Memory() as memory:
            pairs = StoredPairs(Path(own), heldout)
            setup = seconds(lambda: pairs.setup('fit'))
            split, epoch = seconds(lambda: make_split(pairs)), seconds(lambda: draw_batches(pairs))
            ledger = seconds(lambda: keep_ledger(pairs, Path(own, FILE)))
        return Cost(memory.peak, setup, split, epoch, ledger)


def cost_of_columns(folder: str, rows: int) -> Cost:
    """Cost of what has a place for each pair in memory, without their captions, tokens and pictures."""
    torch.set_num_threads(1)
    with Memory() as memory:
        pairs = ColumnsAlone(Path(folder), rows)
        setup = seconds(lambda: pairs.setup('fit'))
        split, epoch = seconds(lambda: make_split(pairs)), seconds(lambda: draw_batches(pairs))
    return Cost(memory.peak, setup, split, epoch)


def write_strings(folder: str, rows: int) -> None:
    """Writes file names and captions, as an index of shards holds them."""
    parts = (pa.table(dict(zip(('image', 'caption'), each, strict=True))) for each in random_strings(rows, seed=0))
    stored_table(Path(folder, STRINGS), lambda: pa.concat_tables(parts))


class StoredPairs(PairsDataModule):
    """Pairs whose strings are in a mapped file."""

    def __init__(self, folder: Path, heldout: PairTable) -> None:
        attacks: dict[str, Poisoning | None] = {
            'badnet': BadNet('banana', rate=0.0005, size=2),
            'tdpa': TargetedPoison(rate=0.0005),
        }
        super().__init__(
            BATCH, image_size=8, context_length=77, attacks=attacks, cache='none', cache_dir=str(folder),
            eval_batch_size=SWEEP_BATCH,
        )  # fmt: skip
        self._heldout = heldout

    def load_table(self) -> PairTable:
        strings = stored_table(self.cache_dir / STRINGS, pa.Table)
        return PairTable(column(strings, 'image'), column(strings, 'caption'), opener=OnePicture())

    def load_heldout(self) -> PairTable:
        return self._heldout


class ColumnsAlone(PairsDataModule):
    """As many pairs as wished, of which there are only the columns."""

    def __init__(self, folder: Path, rows: int) -> None:
        super().__init__(BATCH, cache_dir=str(folder), eval_batch_size=SWEEP_BATCH)
        self.rows = rows

    def load_table(self) -> PairTable:
        raise NotImplementedError('there are only columns')

    def setup(self, stage: str) -> None:
        self.table = self.images = self.tokenizer = None  # type: ignore[assignment]
        self.partition = Partition(self.rows, 'columns', share_columns(self.cache_dir, self.rows, COLUMNS, None))
        self.filtered, self.trusted_rows = np.zeros(self.rows, bool), np.empty(0, np.int64)
        self.tokens: Any = RepeatedTokens()


class RepeatedTokens:
    """Tokens of any number of captions, of which a thousand are different."""

    def __init__(self) -> None:
        self.tokens = np.random.default_rng(0).integers(1, 49_408, (1000, 77)).astype(np.uint16)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.tokens[rows % len(self.tokens)]


class Drawn(Score):
    """Similarities that are drawn instead of measured, batch by batch as a sweep yields them."""

    def measure(
        self, trainer: Any, module: Any, epoch: int, rows: Rows | None = None, shuffled: ShuffledPairs | None = None
    ) -> Tensor:
        pairs, draw = pairs_of(trainer), np.random.default_rng(0)
        batches = pairs.sweep_dataloader().sampler
        sums = RowSums(len(pairs.partition), torch.device('cpu'), torch.uint8)
        for batch in batches:
            row = torch.from_numpy(batch.rows.astype(np.int64))
            similarity = draw.normal(0.1, 0.05, len(row)) + 0.2 * draw.integers(2, size=len(row))
            sums.add(row, torch.from_numpy(similarity))
        if shuffled is not None:
            shuffled.add({'row': torch.from_numpy(shuffled.rows), 'views': random_views(len(shuffled.rows))})
        return sums.mean(trainer)


def random_views(count: int) -> Tensor:
    """Unit-norm embeddings of one view of pictures and captions, (2, 1, count, WIDTH)."""
    return F.normalize(torch.randn(2, 1, count, WIDTH, generator=torch.Generator().manual_seed(0)), dim=-1)


def make_split(pairs: PairsDataModule) -> None:
    """Splits pairs as the callback does on one process."""
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value, broadcast=lambda value: value)
    trainer: Any = SimpleNamespace(datamodule=pairs, strategy=strategy, is_global_zero=True, max_epochs=9)
    module: Any = SimpleNamespace(log=lambda *_, **__: None)
    SafeRiskyRepartition(score=Drawn())._split(trainer, module, 1, pairs.partition)


def draw_batches(pairs: PairsDataModule) -> int:
    """Draws the batches of an epoch of both sides and returns their number."""
    safe, risky = pairs.rows_of_sides({'cross_modal': 2, 'within_modal': 2})
    return sum(1 for _ in PartitionSampler(safe, risky, pairs.steps_per_epoch, BATCH, seed=0, epoch=1))


def keep_ledger(pairs: PairsDataModule, path: Path) -> None:
    """Writes the ledger of the split."""
    partition = pairs.partition
    assert partition.p_value is not None
    columns = partition.score.numpy(), partition.side.numpy()
    write_ledger(path, ledger_parts(pairs.table, *columns, None, partition.p_value.numpy()))
