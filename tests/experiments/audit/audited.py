"""An audit of pairs in memory, with captions and names as strangers may write them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from callbacks.mismatches import Mismatches
from callbacks.mixture import fit_mixture
from datamodules.pair_scores import score_pairs
from datamodules.pictures.images import ArrayImages
from datamodules.rows.table import PairTable
from experiments.audit.findings import Findings
from experiments.audit.page import audit_page
from tests.helpers.suspicious import KINDS, PAIRS, PATCHED, suspicious

WORDS = ('dog', 'cat', 'boat', 'bird', 'tree')


def findings(captions: dict[int, str] | None = None, names: dict[int, str] | None = None, **changes: Any) -> Findings:
    """What is found in the pairs of :func:`suspicious`.

    Args:
        captions: Captions of some rows; others are like ``dog number 3``.
        names: Names of the pictures of some rows; others are like ``photos/3.jpg``.
        changes: Arrays of :class:`Suspicious` to replace.
    """
    given = suspicious()._replace(**changes)
    scores = score_pairs(given.images, given.hashes, given.image, given.text)
    texts = [(captions or {}).get(row, f'{WORDS[kind]} number {row % 7}') for row, kind in enumerate(given.kind)]
    references = [(names or {}).get(row, f'photos/{row}.jpg') for row in range(PAIRS)]
    classes = ['<img src=x onerror="hacked=1">', *WORDS[1:]]
    table = PairTable(references, texts, given.kind % KINDS, classes, opener=ArrayImages(np.zeros((1, 2, 2, 3))))
    data: Any = SimpleNamespace(table=table, images=given.images, stored_size=32)
    shuffled = (given.image.astype(np.float32) * np.roll(given.text, 1, 0).astype(np.float32)).sum(1)
    return Findings(
        data, scores, Mismatches(shuffled).p_values(scores.similarity), shuffled, fit_mixture(scores.similarity), None
    )


def page_of(found: Findings, rows: int = 60) -> str:
    return audit_page(found, 'CLIP tiny.json, a.ckpt', Path('page_scores/ledger.parquet'), rows)


PATCHED_ROW = int(PATCHED[0])
