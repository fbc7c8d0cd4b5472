"""All that an audit finds out about pairs, from a ledger with embeddings and from the pictures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from callbacks.ledger import SEEN_KEY, ledger, sides_by
from callbacks.mismatches import Mismatches
from callbacks.mixture import Mixture, fit_mixture
from callbacks.shuffled_pairs import draw_sample, shuffled_similarities, weigh_words
from datamodules.pair_scores import NAMES, PairScores, score_pairs
from datamodules.pairs import PairsDataModule
from datamodules.rows.embeddings import read_embeddings
from datamodules.rows.filters import match_lines, read_lines
from datamodules.rows.suspicion_filter import SUSPICION
from datamodules.usage_error import UsageError

SAFE_POSTERIOR = 0.9  # as in `predict`


class Findings(NamedTuple):
    """What was found.

    Attributes:
        data: The pairs, set up.
        scores: Scores of each pair.
        p_value: Share of shuffled pairs that are at least as similar as each pair, (N,), NaN where unknown.
        shuffled: Similarities of shuffled pairs, (n,).
        mixture: Mixture fitted to the similarities.
        seen: Share of the pairs that the model was trained on, if that is known.
    """

    data: PairsDataModule
    scores: PairScores
    p_value: NDArray[np.float32]
    shuffled: NDArray[np.float32]
    mixture: Mixture
    seen: float | None

    @property
    def scored(self) -> NDArray[np.int64]:
        """Rows of the pairs that have scores."""
        return np.flatnonzero(~np.isnan(self.scores.similarity))


def find(data: PairsDataModule, file: str, compared: int | None, device: str) -> Findings:
    """Scores pairs.

    Args:
        data: The pairs, set up.
        file: Path of a ledger of these pairs, with embeddings beside it.
        compared: How many pairs each one is compared with at least; ``None`` for all.
        device: Where neighbors are searched.

    Raises:
        UsageError: If the ledger or its embeddings are those of other pairs, or there are too few.
    """
    try:
        image, text = _embeddings_by_row(data, file)
    except UsageError as error:  # readers of ledgers are written for data.filters
        raise UsageError(str(error).replace('data.filters: ', '').replace('file=', 'ledger=')) from error
    scores = score_pairs(data.images, data.picture_hashes(), image, text, compared, device)
    sample = draw_sample(np.flatnonzero(~np.isnan(scores.similarity)))
    sampled_image, sampled_text = (torch.from_numpy(part[sample].astype(np.float32))[None] for part in (image, text))
    shuffled = shuffled_similarities(sampled_image, sampled_text, weigh_words(data.tokens[sample])).numpy()
    shuffled = shuffled[np.isfinite(shuffled)]
    p_value = Mismatches(shuffled).p_values(scores.similarity)
    return Findings(data, scores, p_value, shuffled, fit_mixture(scores.similarity), _share_seen(file))


def _embeddings_by_row(data: PairsDataModule, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of each row, NaN where the ledger has none."""
    lines = read_lines(file)
    image, text = read_embeddings(file, lines['similarity'].to_numpy(zero_copy_only=False))
    line = match_lines(lines, data.table, file)
    if np.array_equal(line, np.arange(len(image))):  # nothing to copy
        return image, text
    is_known = (line >= 0)[:, None]
    return np.where(is_known, image[line], np.float16(np.nan)), np.where(is_known, text[line], np.float16(np.nan))


def _share_seen(file: str) -> float | None:
    seen = (pq.read_schema(file).metadata or {}).get(SEEN_KEY)
    return None if seen is None else float(seen)


def audited_ledger(findings: Findings) -> pa.Table:
    """A ledger of the pairs with further columns: how far each stands out, and in which score it does most."""
    scores = findings.scores
    side = sides_by(scores.similarity, findings.mixture.guarded_cut(SAFE_POSTERIOR))
    lines = ledger(findings.data.table, scores.similarity, side, findings.mixture, findings.p_value, findings.seen)
    columns = {f'{name}_score': score for name, score in scores.standing.items()} | {SUSPICION: scores.suspicion}
    for name, score in columns.items():
        lines = lines.append_column(name, pa.array(score.astype(np.float32), mask=np.isnan(score)))
    reason = pa.array([NAMES[number] for number in scores.reason], pa.string(), mask=np.isnan(scores.suspicion))
    return lines.append_column('reason', reason)
