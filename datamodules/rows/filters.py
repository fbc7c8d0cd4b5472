"""Rules that drop pairs before training, based on files alone: ``data.filters`` in a config file.

A method that judges pairs with a model first writes its scores to a file, with ``predict``; a filter then reads that
file. So the pairs of a run are known before its steps are counted, and a resumed run trains on the same pairs.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.files.quoting import quote
from datamodules.files.text_lines import UNDECODABLE, read_text_lines
from datamodules.rows.draws import bits
from datamodules.rows.row_sets import mark_rows, row_numbers
from datamodules.rows.subsets import random_rows
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

TIE_KEY = 0x6669_6C74  # of the hash that ranks pairs of equal score; any number would do, but it must never change
LEDGER = pa.schema({'key': pa.string(), 'caption': pa.string(), 'similarity': pa.float32(), 'side': pa.string()})
P_VALUE = 'p_value'  # of a pair in a ledger: null where it is not known
_UNREADABLE = (OSError, EOFError, ValueError, SyntaxError, TokenError, BadZipFile, MemoryError, UserWarning)
UIDS = np.dtype('<u8,<u8')  # the two halves of a DataComp uid, as its subset files hold them


class Filter(ABC):
    """A rule that drops pairs. YAML names a subclass by its class name, like an attack."""

    @abstractmethod
    def drop(self, table: PairTable) -> np.ndarray:
        """Marks the rows to leave out of training, bool (N,).

        Args:
            table: All pairs, including poisons, which are not marked as such.

        Raises:
            UsageError: If the rule cannot be applied to these pairs.
        """


class ControlFilter(Filter):
    """A rule for controlled experiments that knows which pairs are poisoned. A defense must not be one."""

    def drop(self, table: PairTable) -> np.ndarray:
        raise TypeError('a control filter needs to know the poisons: call drop_knowing')

    @abstractmethod
    def drop_knowing(self, table: PairTable, poisons: np.ndarray) -> np.ndarray:
        """Marks the rows to leave out of training, bool (N,), given the poisoned rows, int64 (P,)."""


class PictureFilter(Filter):
    """A rule that knows which pairs show the same picture."""

    def drop(self, table: PairTable) -> np.ndarray:
        raise TypeError('a picture filter needs to know the pictures: call drop_pictures')

    @abstractmethod
    def drop_pictures(self, picture: np.ndarray) -> np.ndarray:
        """Marks the rows to leave out of training, bool (N,), given a hash of each row's picture, int64 (N,)."""


class PictureFold(PictureFilter):
    """Keeps, or drops, one of several parts of the pairs, of about equal size; all pairs of a picture are in one.

    In cross-fitting, a model that is trained without a part scores the pairs of that part.

    Args:
        fold: Number of the part, from 0.
        folds: Number of parts, at least 2.
        listed: ``keep`` keeps only the pairs of the part, ``drop`` drops them.
    """

    def __init__(self, fold: int, folds: int = 2, listed: Literal['keep', 'drop'] = 'keep') -> None:
        if not 0 <= fold < folds or folds < 2:
            raise UsageError(f'data.filters: fold must be from 0 to folds - 1 of at least 2, got {fold} of {folds}.')
        self.fold, self.folds, self.listed = fold, folds, listed

    def drop_pictures(self, picture: np.ndarray) -> np.ndarray:
        is_listed = picture.view(np.uint64) % np.uint64(self.folds) == self.fold
        return ~is_listed if self.listed == 'keep' else is_listed


class RandomSubset(Filter):
    """Keeps a random subset of all pairs, poisoned or not.

    Args:
        share: Fraction of the pairs to keep, in (0, 1].
        seed: Seed of the draw. With the same seed, a larger share keeps every pair that a smaller one keeps.
    """

    def __init__(self, share: float, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise UsageError(f'data.filters: share must be a fraction of the pairs in (0, 1], got {share}.')
        self.share, self.seed = share, seed

    def drop(self, table: PairTable) -> np.ndarray:
        kept = random_rows(len(table), max(1, round(self.share * len(table))), self.seed)
        return ~mark_rows(kept, len(table))


class CleanSubset(ControlFilter):
    """Keeps a random subset of the clean pairs, which CleanCLIP's fine-tuning assumes (Bansal et al., 2023).

    Args:
        count: Pairs to keep (CleanCLIP: 100,000).
        seed: Seed of the draw.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def drop_knowing(self, table: PairTable, poisons: np.ndarray) -> np.ndarray:
        clean = row_numbers(~mark_rows(poisons, len(table)))
        if not 0 < self.count <= len(clean):
            raise UsageError(f'data.filters: count={self.count} must be from 1 to the {len(clean):,} clean pairs.')
        return ~mark_rows(clean[random_rows(len(clean), self.count, self.seed)], len(table))


class LedgerFilter(Filter):
    """Keeps the pairs that a ledger calls safe, or those with the highest similarity or the lowest p-value in it.

    ``fit`` and ``predict`` write a ledger as ``ledger.parquet``. Pairs are matched by the name of their picture and
    their caption, so the ledger may come from a run with other poisons, another order or more pairs. A pair that is not
    in the ledger, or has no score in it, is dropped.

    Args:
        file: Path of the ledger, or of several, each of which has scored some of the pairs.
        share: Fraction of the pairs to keep, in (0, 1], the most similar ones. By default, the safe side is kept.
        max_p: Keeps the pairs with at most this p-value, in (0, 1): the share of mismatched pairs that look at least as
            true as the pair. It thus bounds the share of the poisons that are kept, as long as the model has not
            learned them.
    """

    def __init__(self, file: str | list[str], share: float | None = None, max_p: float | None = None) -> None:
        if share is not None and not 0 < share <= 1:
            raise UsageError(f'data.filters: share must be a fraction of the pairs in (0, 1], got {share}.')
        if max_p is not None and not 0 < max_p < 1:
            raise UsageError(f'data.filters: max_p must be a share of mismatched pairs in (0, 1), got {max_p}.')
        if share is not None and max_p is not None:
            raise UsageError('data.filters: share and max_p exclude each other: give one of them.')
        if not file and isinstance(file, list):
            raise UsageError('data.filters: file is an empty list: give the path of a ledger.')
        self.file, self.share, self.max_p = file, share, max_p

    def drop(self, table: PairTable) -> np.ndarray:
        lines = self._lines()
        line = match_lines(lines, table, self.file)
        known = line >= 0
        if not known.all():
            log.warning('%s lacks %d of %d pairs, which are dropped', self.file, (~known).sum(), len(known))
        if self.share is None:
            return ~(known & self._is_trusted(lines)[line])
        similarity = np.where(known, lines['similarity'].to_numpy(zero_copy_only=False)[line], np.nan)
        best = ranked(similarity)[: round(self.share * len(table))]
        return ~(mark_rows(best, len(table)) & ~np.isnan(similarity))

    def _is_trusted(self, lines: pa.Table) -> np.ndarray:
        """Whether each line of the ledger is on the safe side or, with ``max_p``, has a p-value up to it."""
        if self.max_p is None:
            return np.asarray(pc.equal(lines['side'], 'safe').fill_null(False))
        return np.asarray(pc.less_equal(lines[P_VALUE], pa.scalar(self.max_p, pa.float32())).fill_null(False))

    def _lines(self) -> pa.Table:
        """Lines of all ledgers, without those of pairs that were not scored."""
        files = [self.file] if isinstance(self.file, str) else self.file
        return pa.concat_tables([self._read(file) for file in files]).combine_chunks()

    def _read(self, file: str) -> pa.Table:
        lines = read_lines(file, () if self.max_p is None else (P_VALUE,), is_scored=True)
        if self.max_p is not None and P_VALUE not in lines.column_names:
            raise UsageError(
                f'data.filters: file={file!r} has no p-values, which max_p needs: give the ledger of a run of this '
                f'release, or share instead.'
            )
        return lines


class KeyList(Filter):
    """Keeps, or drops, the pairs on a list.

    Args:
        file: Path of the list: a text file with one key per line, or an ``.npy`` file of uids in DataComp's form (each
            a pair of 64-bit integers, the halves of a sample's ``uid``). A key is the name of a picture, as in a
            ledger, or, for shards, the key or ``uid`` of a sample.
        listed: ``keep`` keeps only the pairs on the list, as DataComp's subset files do. ``drop`` drops them.
    """

    def __init__(self, file: str, listed: Literal['keep', 'drop'] = 'keep') -> None:
        self.file, self.listed = file, listed

    def drop(self, table: PairTable) -> np.ndarray:
        on_list = np.zeros(len(table), bool)
        keys = pc.unique(pa.array(self._keys(), pa.string()))
        found = np.zeros(len(keys), bool)
        for column in (table.names(), *table.keys.values()):
            on_list |= np.asarray(pc.is_in(column, value_set=keys))
            found |= np.asarray(pc.is_in(keys, value_set=column))
        if not on_list.any():
            raise UsageError(
                f'data.filters: file={self.file!r} lists none of the {len(table):,} pairs; a key is a uid, the key of '
                f'a sample or the name of a picture such as {table.names()[0].as_py()!r}.'
            )
        if not found.all():
            first = quote(keys[int(np.argmin(found))].as_py())
            log.warning('%s: %d of %d keys name no pair; first: %s', self.file, (~found).sum(), len(found), first)
        return ~on_list if self.listed == 'keep' else on_list

    def _keys(self) -> list[str]:
        if not Path(self.file).is_file():
            raise UsageError(f'data.filters: there is no file={self.file!r}.')
        try:
            return self._uids() if self.file.endswith('.npy') else self._text_lines()
        except _UNREADABLE as error:
            reason = str(error).partition('\n')[0]
            raise UsageError(f'data.filters: file={self.file!r} is not a readable list ({reason}).') from error

    def _text_lines(self) -> list[str]:
        lines = read_text_lines(Path(self.file), f'data.filters: file={self.file!r}')
        keys = [key for line in lines if (key := line.strip())]
        if unusable := sum(UNDECODABLE in key for key in keys):
            raise ValueError(f'{unusable} of {len(keys)} lines are not UTF-8')
        return keys

    def _uids(self) -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # NumPy takes a damaged header for one that Python 2 wrote
            uids = np.load(self.file)
        if not isinstance(uids, np.ndarray):
            raise ValueError('an archive of several arrays')
        if uids.dtype != UIDS or uids.ndim != 1:
            raise ValueError(f'it holds {uids.dtype} instead of a list of "u8,u8", as in DataComp')
        return [f'{high:016x}{low:016x}' for high, low in uids.tolist()]


def apply_filters(
    filters: Mapping[str, Filter], table: PairTable, poisons: np.ndarray, pictures: Callable[[], np.ndarray]
) -> dict[str, np.ndarray]:
    """Marks the rows that each filter drops, bool (N,), by its name, and logs how many.

    Args:
        filters: Rules by name.
        table: All pairs.
        poisons: Poisoned rows, int64 (P,), passed to a :class:`ControlFilter` only.
        pictures: Hashes the picture of each row, int64 (N,), for a :class:`PictureFilter` only.

    Raises:
        UsageError: If no pair is left.
    """
    drops: dict[str, np.ndarray] = {}
    for name, rule in filters.items():
        drops[name] = dropped_by(rule, table, poisons, pictures)
        log.warning('data.filters.%s drops %d of %d pairs', name, drops[name].sum(), len(table))
    if len(table) and dropped_by_any(drops, len(table)).all():
        raise UsageError(f'data.filters drop all {len(table):,} pairs: loosen or remove one of {", ".join(filters)}.')
    return drops


def dropped_by_any(drops: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    """Marks the rows that any filter drops, bool (N,), of what :func:`apply_filters` returns."""
    return np.any([np.zeros(rows, bool), *drops.values()], axis=0)


def dropped_by(rule: Filter, table: PairTable, poisons: np.ndarray, pictures: Callable[[], np.ndarray]) -> np.ndarray:
    """Marks the rows that a rule drops, bool (N,); the arguments are those of :func:`apply_filters`."""
    if isinstance(rule, ControlFilter):
        dropped = rule.drop_knowing(table, poisons)
    else:
        dropped = rule.drop_pictures(pictures()) if isinstance(rule, PictureFilter) else rule.drop(table)
    _check_mask(dropped, len(table), type(rule).__name__)
    return dropped


def mask_digest(mask: np.ndarray) -> str | None:
    """Digest of the marked rows, 16 hexadecimal digits; ``None`` if no row is marked."""
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16] if mask.any() else None


def _check_mask(mask: object, count: int, name: str) -> None:
    """Refuses what a filter of the user's own returns by mistake: numpy would take one value for every row."""
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (count,):
        returned = f'{mask.dtype} {mask.shape}' if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f'{name} must return a numpy array of type bool and shape ({count},), not {returned}')


def read_lines(file: str, further: Sequence[str] = (), is_scored: bool = False) -> pa.Table:
    """Reads what a filter needs of a ledger, in the order of its lines.

    Args:
        file: Path of the ledger.
        further: Columns of numbers to read as well, where they are there.
        is_scored: Leave out pairs that were not scored.

    Raises:
        UsageError: If the file is missing or is not a ledger.
    """
    if '://' not in file and not Path(file).is_file():
        raise UsageError(
            f'data.filters: there is no file={file!r}: give the ledger.parquet that a run, predict or audit wrote.'
        )
    try:
        present = pq.read_schema(file).names if further else []
        wanted = pa.schema([*LEDGER, *((name, pa.float32()) for name in further if name in present)])
        side = pc.field('side')
        chosen = side.is_null() | (side != 'dropped') if is_scored else None
        return pq.read_table(file, columns=wanted.names, filters=chosen).cast(wanted)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        reason = str(error).partition('\n')[0]
        raise UsageError(f'data.filters: file={file!r} is not a readable ledger ({reason}).') from error


def match_lines(lines: pa.Table, table: PairTable, file: str | list[str]) -> np.ndarray:
    """Finds the line of a ledger for each row of a table, by image reference and caption.

    A pair may occur twice, as where an attack stamps a copy of a picture and keeps its caption. The first such row then
    gets the first line, the second the second, and further ones the last.

    Args:
        lines: Lines of the ledger.
        table: The pairs.
        file: What the user has named as the ledger.

    Returns:
        Index of the line, int64 (N,); -1 if none matches.

    Raises:
        UsageError: If the ledger has none of the pairs.
    """
    ledger = pc.binary_join_element_wise(lines['key'], lines['caption'], '\0')
    pairs = pc.binary_join_element_wise(table.names(), table.caption, '\0')
    first, first_alike = (
        np.asarray(pc.fill_null(pc.index_in(x, value_set=ledger), -1), np.int64) for x in (pairs, ledger)
    )
    if not (first >= 0).any():
        raise UsageError(f'data.filters: file={file!r} has none of these pairs: give a ledger of this data.')
    by_pair = np.argsort(first_alike, kind='stable')
    start, end = (np.searchsorted(first_alike, first, side, by_pair) for side in ('left', 'right'))
    return np.where(first < 0, -1, by_pair[np.minimum(start + earlier_alike(first), end - 1)])


def earlier_alike(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each value, int64 (N,)."""
    order = np.argsort(values, kind='stable')
    earlier = np.empty(len(values), np.int64)
    earlier[order] = np.arange(len(values)) - np.searchsorted(values, values[order], sorter=order)
    return earlier


def ranked(score: np.ndarray) -> np.ndarray:
    """Rows from the highest score to the lowest, NaN last, int64 (N,).

    Equal ones follow a hash of the row, not the row itself: poisons are often the last rows.
    """
    return np.lexsort((bits(len(score), TIE_KEY), -score))
