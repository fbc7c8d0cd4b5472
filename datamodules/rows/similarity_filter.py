"""SimilarityFilter: trusts the judgement of a clean CLIP on which pictures and captions match."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.rows.filters import LedgerFilter
from datamodules.usage_error import UsageError, check_number


class SimilarityFilter(LedgerFilter):
    """Keeps the pairs that are similar enough to a CLIP model that has not seen them (Yang et al., ICML 2023).

    ``predict`` with the clean model writes the ledger; any open_clip checkpoint can be the model, by
    ``--model.pretrained``. Pairs are matched, and unknown ones dropped, as by :class:`LedgerFilter`.

    Args:
        file: Path of the ledger, or of several, each of which has scored some of the pairs.
        threshold: Least similarity of a pair that is kept, in (-1, 1); it differs from model to model.
        quantile: Share of the pairs, the least similar ones, to drop, in (0, 1). Without it and ``threshold``, the cut
            of the mixture decides that ``predict`` has fitted to the similarities: the safe side of the ledger.
    """

    def __init__(self, file: str | list[str], threshold: float | None = None, quantile: float | None = None) -> None:
        if threshold is not None and quantile is not None:
            raise UsageError('data.filters: threshold and quantile exclude each other: give one of them.')
        check_number('data.filters: threshold', threshold, '(-1, 1)')
        check_number('data.filters: quantile', quantile, '(0, 1)')
        super().__init__(file, None if quantile is None else 1 - quantile)
        self.threshold = threshold

    def _is_trusted(self, lines: pa.Table) -> np.ndarray:
        if self.threshold is None:
            return super()._is_trusted(lines)
        similar = pc.greater_equal(lines['similarity'], pa.scalar(self.threshold, pa.float32()))
        return np.asarray(similar.fill_null(False))
