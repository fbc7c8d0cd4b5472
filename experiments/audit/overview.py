"""What a set of pairs is, in a few numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from datamodules.rows.table import UNKNOWN
from experiments.audit.clusters import Clusters
from experiments.audit.findings import Findings

CLASSES_SHOWN = 12


class Fact(NamedTuple):
    """A number, or a few words, and what it is."""

    name: str
    value: str


def overview(findings: Findings, pictures: Clusters, captions: Clusters) -> list[Fact]:
    """Facts about the set.

    Args:
        findings: What was found.
        pictures: Groups of nearly identical pictures.
        captions: Groups of equal captions.
    """
    data, pairs = findings.data, len(findings.scores.similarity)
    length = np.array([len(caption) for caption in data.table.captions(findings.scored)])
    facts = [
        Fact('pairs', f'{pairs:,}'),
        Fact('left out: unreadable, or by data.filters', f'{pairs - len(findings.scored):,}'),
        Fact('side of a stored picture', f'{data.stored_size} pixels'),
        Fact('pictures that occur several times', _describe_groups(pictures)),
        Fact('captions that occur several times', _describe_groups(captions)),
        Fact(
            'length of a caption', f'{length.min():,} to {length.max():,} characters, mostly {np.median(length):,.0f}'
        ),
    ]
    return [*facts, *([Fact('classes', classes)] if (classes := _describe_classes(findings)) else [])]


def _describe_groups(clusters: Clusters) -> str:
    return f'{clusters.groups:,}, in {clusters.pairs:,} pairs' if clusters.groups else 'none'


def _describe_classes(findings: Findings) -> str:
    """The most frequent classes; empty if pairs have none."""
    table = findings.data.table
    label = table.label[findings.scored]
    number, count = np.unique(label[label != UNKNOWN], return_counts=True)
    order = np.argsort(-count, kind='stable')
    shown = [f'{table.classes[number[at]]} {count[at]:,}' for at in order[:CLASSES_SHOWN]]
    return ', '.join([*shown, *(['…'] if len(number) > len(shown) else [])])
