"""SuspicionFilter: drops the pairs that stand out in ``clipward audit``, from the ledger that it wrote."""

from __future__ import annotations

import logging

import numpy as np

from datamodules.rows.filters import Filter, match_lines, ranked, read_lines
from datamodules.rows.suspicion import STANDS_OUT
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError, check_number

log = logging.getLogger(__name__)

SUSPICION = 'suspicion'  # column of a ledger


class SuspicionFilter(Filter):
    """Drops the most suspicious pairs of an audit. A pair that is not in its ledger, or has no score, is dropped.

    Args:
        file: Path of the ledger that ``clipward audit`` has written.
        least: Suspicion from which on a pair is dropped (on the page: that of pairs that stand out).
        drop_share: Share of the scored pairs, the most suspicious ones, to drop instead, in (0, 1).
    """

    def __init__(self, file: str, least: float = STANDS_OUT, drop_share: float | None = None) -> None:
        check_number('data.filters: drop_share', drop_share, '(0, 1)')
        self.file, self.least, self.drop_share = file, least, drop_share

    def drop(self, table: PairTable) -> np.ndarray:
        lines = read_lines(self.file, (SUSPICION,))
        if SUSPICION not in lines.column_names:
            raise UsageError(f'data.filters: file={self.file!r} has no suspicion: give the ledger of clipward audit.')
        line = match_lines(lines, table, self.file)
        score = np.where(line >= 0, lines[SUSPICION].to_numpy(zero_copy_only=False)[line], np.nan)
        unknown = np.isnan(score)
        if unknown.any():
            log.warning('%s has no score for %d of %d pairs, which are dropped', self.file, unknown.sum(), len(unknown))
        if self.drop_share is None:
            return unknown | (score >= self.least)
        dropped = unknown.copy()
        dropped[ranked(score)[: round(self.drop_share * (~unknown).sum())]] = True
        return dropped
