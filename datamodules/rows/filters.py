"""Rules that drop pairs before training, from files alone: ``data.filters`` in a configuration.

What needs a model to judge pairs writes its scores to a file first, with ``predict``, and a filter reads the file. So
the pairs of a run are known before its steps are counted, and a resumed run trains on the same ones.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.rows.draws import bits
from datamodules.rows.subsets import random_rows
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

TIE_KEY = 0x6669_6C74  # of the hash that ranks pairs of equal similarity; any number would do, but it must never change
UIDS = np.dtype('<u8,<u8')  # the two halves of a DataComp uid, as its subset files hold them


class Filter(ABC):
    """A rule that drops pairs. A subclass is found by its name in YAML, like an attack."""

    @abstractmethod
    def drop(self, table: PairTable) -> np.ndarray:
        """Which rows are left out of training, bool (N,).

        Args:
            table: All pairs, poisons included; nothing tells which these are.

        Raises:
            UsageError: If the rule cannot be applied to these pairs.
        """


class ControlFilter(Filter):
    """A rule for controlled experiments, which may know which pairs are poisoned; no defense is one."""

    def drop(self, table: PairTable) -> np.ndarray:
        raise TypeError('a control filter needs to know the poisons: call drop_knowing')

    @abstractmethod
    def drop_knowing(self, table: PairTable, poisons: np.ndarray) -> np.ndarray:
        """Which rows are left out of training, bool (N,), given the poisoned rows, int64 (P,)."""


class RandomSubset(Filter):
    """Keeps a random part of the pairs, poisons among them as often as they come.

    Args:
        share: Pairs to keep as a fraction of all, in (0, 1].
        seed: Seed of the draw; a larger share keeps all that a smaller one does.
    """

    def __init__(self, share: float, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise UsageError(f'data.filters: share must be a fraction of the pairs in (0, 1], got {share}.')
        self.share, self.seed = share, seed

    def drop(self, table: PairTable) -> np.ndarray:
        kept = random_rows(len(table), max(1, round(self.share * len(table))), self.seed)
        return ~_mask(kept, len(table))


class CleanSubset(ControlFilter):
    """Keeps random pairs that are known to be clean, as CleanCLIP's fine-tuning assumes (Bansal et al., 2023).

    Args:
        count: Pairs to keep (CleanCLIP: 100,000).
        seed: Seed of the draw.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def drop_knowing(self, table: PairTable, poisons: np.ndarray) -> np.ndarray:
        clean = np.setdiff1d(np.arange(len(table)), poisons)
        if not 0 < self.count <= len(clean):
            raise UsageError(f'data.filters: count={self.count} must be from 1 to the {len(clean):,} clean pairs.')
        return ~_mask(clean[random_rows(len(clean), self.count, self.seed)], len(table))


class LedgerFilter(Filter):
    """Keeps what a ledger calls safe, or the pairs that it found most similar.

    A ledger is what ``fit`` and ``predict`` leave as ``ledger.parquet``. Pairs are recognized by image reference and
    caption, so the ledger may come from a run with other poisons, another order or more pairs; a pair that it does
    not know, or did not score, is dropped.

    Args:
        file: The ledger.
        share: Keep this fraction of the pairs, in (0, 1], the most similar ones; ``None`` keeps the safe side.
    """

    def __init__(self, file: str, share: float | None = None) -> None:
        if share is not None and not 0 < share <= 1:
            raise UsageError(f'data.filters: share must be a fraction of the pairs in (0, 1], got {share}.')
        self.file, self.share = file, share

    def drop(self, table: PairTable) -> np.ndarray:
        lines = self._lines()
        row = _rows_of(lines, table)
        known = row >= 0
        if not known.any():
            raise UsageError(f'data.filters: file={self.file!r} knows none of these pairs: give a ledger of this data.')
        if not known.all():
            log.warning('%s does not know %d of %d pairs; dropped', self.file, (~known).sum(), len(known))
        safe = np.asarray(pc.equal(lines['side'], 'safe'))
        if self.share is None:
            return ~(known & safe[row])
        similarity = np.where(known, lines['similarity'].to_numpy(zero_copy_only=False)[row], np.nan)
        order = np.lexsort((bits(len(table), TIE_KEY), -similarity))  # not by row: poisons are often the last rows
        best = order[: round(self.share * len(table))]
        return ~(_mask(best, len(table)) & ~np.isnan(similarity))

    def _lines(self) -> pa.Table:
        try:
            return pq.read_table(self.file, columns=['key', 'caption', 'similarity', 'side']).combine_chunks()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise UsageError(f'data.filters: file={self.file!r} is not a ledger that can be read ({error}).') from error


class KeyList(Filter):
    """Keeps, or drops, the pairs that a list names.

    Args:
        file: A text file with a key in each line, or an ``.npy`` file in DataComp's form, pairs of 64-bit integers that
            are the halves of a sample's ``uid``. A key is the image reference that a ledger shows or, in shards, the
            key or the ``uid`` of a sample.
        listed: ``keep`` only the pairs on the list, as DataComp's subsets mean it, or ``drop`` them.
    """

    def __init__(self, file: str, listed: Literal['keep', 'drop'] = 'keep') -> None:
        self.file, self.listed = file, listed

    def drop(self, table: PairTable) -> np.ndarray:
        named = np.zeros(len(table), bool)
        keys = pa.array(self._keys(), pa.string())
        for column in (table.image, *table.keys.values()):
            named |= np.asarray(pc.is_in(column, value_set=keys))
        if not named.any():
            raise UsageError(
                f'data.filters: file={self.file!r} names none of the {len(table):,} pairs; a key is a uid, the key of '
                f'a sample or an image reference such as {table.image[0].as_py()!r}.'
            )
        return ~named if self.listed == 'keep' else named

    def _keys(self) -> list[str]:
        if not Path(self.file).is_file():
            raise UsageError(f'data.filters: file={self.file!r} does not exist.')
        if not self.file.endswith('.npy'):
            return [line for line in Path(self.file).read_text('utf-8').splitlines() if line]
        uids = np.load(self.file)
        if uids.dtype != UIDS or uids.ndim != 1:
            raise UsageError(
                f'data.filters: file={self.file!r} holds {uids.dtype} instead of one list of "u8,u8", as in DataComp.'
            )
        return [f'{high:016x}{low:016x}' for high, low in uids.tolist()]


def dropped_by(filters: Mapping[str, Filter], table: PairTable, poisons: np.ndarray) -> np.ndarray:
    """Rows that any of the filters drops, bool (N,); what each drops is counted in the log.

    Args:
        filters: Rules by name.
        table: All pairs.
        poisons: Poisoned rows, int64 (P,); only a :class:`ControlFilter` is told.

    Raises:
        UsageError: If no pair is left.
    """
    dropped = np.zeros(len(table), bool)
    for name, rule in filters.items():
        own = rule.drop_knowing(table, poisons) if isinstance(rule, ControlFilter) else rule.drop(table)
        log.warning('data.filters.%s drops %d of %d pairs', name, own.sum(), len(own))
        dropped |= own
    if len(table) and dropped.all():
        raise UsageError(f'data.filters leave none of the {len(table):,} pairs: {", ".join(filters)}.')
    return dropped


def mask_digest(dropped: np.ndarray) -> str | None:
    """Names the dropped rows (16 hexadecimal digits); ``None`` if there are none."""
    return hashlib.sha256(np.packbits(dropped).tobytes()).hexdigest()[:16] if dropped.any() else None


def _mask(rows: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask


def _rows_of(lines: pa.Table, table: PairTable) -> np.ndarray:
    """Line of a ledger for each row of a table, by image reference and caption, -1 where there is none; int64 (N,).

    Of several lines with the same reference and caption the first counts.
    """
    names = pc.binary_join_element_wise(lines['key'].cast(pa.string()), lines['caption'].cast(pa.string()), '\0')
    wanted = pc.binary_join_element_wise(table.image, table.caption, '\0')
    return np.asarray(pc.fill_null(pc.index_in(wanted, value_set=names), -1), np.int64)
