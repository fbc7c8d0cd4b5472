"""DensityFilter: drops the pairs that a detector finds most suspicious, from embeddings that ``predict`` wrote."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.files.array_cache import stored_array
from datamodules.rows.detectors import Detector, DetectorName, Modality
from datamodules.rows.embeddings import IMAGE_FILE, TEXT_FILE, read_embeddings
from datamodules.rows.filters import Filter, match_lines, ranked, read_lines
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError, check_number

log = logging.getLogger(__name__)

VERSION = 1  # of the scores; a change of a formula needs another number


class DensityFilter(Filter):
    """Drops the pairs with the most unusual embeddings (Huang et al., ICLR 2025, and earlier detectors).

    ``predict`` with ``--callbacks.ledger.embeddings=true`` writes the embeddings beside its ledger. The scores are
    computed once and stored there as well. A pair that is not in the ledger, or has no score in it, is dropped.

    Args:
        file: Path of the ledger, whose folder also holds the embeddings.
        detector: How pairs are scored: ``dao``, ``slof``, ``k_distance``, ``lof``, ``deep_knn``,
            ``spectral_signatures``, ``activation_clustering`` or ``isolation_forest``.
        drop_share: Share of the scored pairs, the most suspicious ones, to drop, in (0, 1).
        modality: What is compared: embeddings of pictures, of captions, or of both side by side.
        neighbors: Nearest neighbors that a pair is compared with (Huang et al.: 16).
        dimension_neighbors: Nearest neighbors that ``dao`` estimates the local dimension from (Huang et al.: 64).
        batch: Compares pairs only with those of a random batch of at least this many (Huang et al.: 1,024 or 2,048).
            ``None`` compares each with all; pictures with one trigger are then neighbors of each other.
        groups: Groups of captions that stand for classes in the detectors that are made for labeled data:
            ``spectral_signatures``, ``activation_clustering`` and ``isolation_forest``.
        device: Where neighbors are searched, such as ``cuda``.
    """

    def __init__(
        self,
        file: str,
        detector: DetectorName = 'dao',
        drop_share: float = 0.1,
        modality: Modality = 'image',
        neighbors: int = 16,
        dimension_neighbors: int = 64,
        batch: int | None = None,
        groups: int = 1,
        device: str = 'cpu',
    ) -> None:
        check_number('data.filters: drop_share', drop_share, '(0, 1)')
        self.file, self.drop_share = file, drop_share
        with _naming():
            self.detector = Detector(detector, modality, neighbors, dimension_neighbors, batch, groups, device)

    def drop(self, table: PairTable) -> np.ndarray:
        lines = read_lines(self.file)
        line = match_lines(lines, table, self.file)
        score = np.where(line >= 0, self._scores(lines['similarity'].to_numpy(zero_copy_only=False))[line], np.nan)
        unknown = np.isnan(score)
        if unknown.any():
            log.warning('%s has no score for %d of %d pairs, which are dropped', self.file, unknown.sum(), len(unknown))
        dropped = unknown.copy()
        dropped[ranked(score)[: round(self.drop_share * (~unknown).sum())]] = True
        return dropped

    def _scores(self, similarity: np.ndarray) -> NDArray[np.float32]:
        """Score of each line of the ledger, (L,); from the file of an earlier call with these settings if it exists."""
        image, text = read_embeddings(self.file, similarity)

        def fill(scores: np.ndarray) -> None:
            with _naming():
                scores[:] = self.detector.suspicion(image, text)

        folder = Path(self.file).parent
        if os.access(folder, os.W_OK):
            return stored_array(folder / f'{self._identity()}.npy', similarity.shape, np.float32, fill)
        scores = np.empty(similarity.shape, np.float32)
        fill(scores)
        return scores

    def _identity(self) -> str:
        """Names the scores by all that they depend on."""
        states = [Path(self.file).with_name(name).stat() for name in (IMAGE_FILE, TEXT_FILE)]
        parts = VERSION, replace(self.detector, device='cpu'), [(state.st_size, state.st_mtime_ns) for state in states]
        return f'{self.detector.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}'


@contextmanager
def _naming() -> Iterator[None]:
    """Says where the user has given what a detector refuses."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f'data.filters: {error}') from error
