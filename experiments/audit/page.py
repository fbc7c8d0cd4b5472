"""The page of an audit: what the set is, how sure the audit is, suspects, and groups of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.pair_scores import NAMES
from datamodules.rows.decisions import FORMAT, VERSION
from datamodules.rows.suspicion import STANDS_OUT
from experiments.audit.certainty import MAX_P, describe, judge
from experiments.audit.clusters import Clusters, caption_groups, clusters
from experiments.audit.drawings import histogram, thumbnail
from experiments.audit.findings import Findings
from experiments.audit.overview import overview
from experiments.audit.suspects import suspects
from experiments.self_contained_page import render_page

GROUPS_SHOWN, PAIRS_OF_GROUP = 12, 6
MAX_DECIDED = 2000  # pairs of a group that can be decided on at once; the rows of a larger one would fill the page
SCORES = {
    'similarity': ('no match', 'picture and caption do not belong together, as far as the model can tell'),
    'density': ('unusual picture', 'the model knows few pictures like this one (DAO, Huang et al., ICLR 2025)'),
    'copies': ('repeated picture', 'more pairs than usual show nearly the same picture'),
    'pattern': ('shared pattern', 'pictures with similar captions carry the same faint pattern, such as a watermark'),
    'detail': ('shared detail', 'pictures with similar captions have the same small thing in them, such as a sticker'),
}
assert tuple(SCORES) == NAMES


class Shown(NamedTuple):
    """A pair as the page shows it.

    Attributes:
        row: Its row.
        key: Name of the picture.
        caption: Its caption.
        picture: The picture, as part of the page.
        similarity: Cosine of both.
        p_value: Share of shuffled pairs that are at least as similar.
        suspicion: How far it stands out.
        reason: In which score it does most.
        standing: How far it stands out in each score, by name.
    """

    row: int
    key: str
    caption: str
    picture: str
    similarity: float
    p_value: float
    suspicion: float
    reason: str
    standing: dict[str, float]


class Group(NamedTuple):
    """A group of pairs as the page shows it.

    Attributes:
        size: Number of pairs.
        rows: Their rows, if they can be decided on at once; else empty.
        pairs: Some of them.
    """

    size: int
    rows: Sequence[int]
    pairs: Sequence[Shown]


def audit_page(findings: Findings, model: str, ledger: Path, rows: int) -> str:
    """The page as HTML.

    Args:
        findings: What was found.
        model: What the model is, in a few words.
        ledger: Where the ledger with all scores lies.
        rows: Most suspects to show.
    """
    scores, table = findings.scores, findings.data.table
    shown = suspects(scores.suspicion, scores.group, rows)
    pictures = clusters(scores.group, findings.scored, GROUPS_SHOWN)
    captions = clusters(caption_groups(table.caption), findings.scored, GROUPS_SHOWN)
    similarity = scores.similarity[findings.scored]
    return render_page(
        Path(__file__).parent,
        'page',
        decisions={'format': FORMAT, 'version': VERSION, 'fingerprint': table.fingerprint},
        model=model,
        ledger=ledger,
        facts=overview(findings, pictures, captions),
        certainty=describe(judge(similarity, findings.shuffled, findings.seen)),
        histogram=histogram(findings),
        max_p=MAX_P,
        names=SCORES,
        stands_out=STANDS_OUT,
        flagged=count_flagged(findings),
        suspects=show(findings, shown, is_framed=True),
        scored=len(findings.scored),
        groups={'pictures': _groups(findings, pictures), 'captions': _groups(findings, captions)},
        counts={'pictures': pictures.groups, 'captions': captions.groups},
    )


def count_flagged(findings: Findings) -> dict[str, int]:
    """How many pairs stand out, by the score in which they do most, and ``all`` of them."""
    scores = findings.scores
    reasons = scores.reason[scores.suspicion >= STANDS_OUT]
    by_reason = np.bincount(reasons, minlength=len(NAMES))
    return {'all': len(reasons), **{name: int(count) for name, count in zip(NAMES, by_reason, strict=True)}}


def show(findings: Findings, rows: NDArray[np.int64], is_framed: bool = False) -> list[Shown]:
    """Some pairs, in the order of their rows given, with frames around shared details that stand out if wanted."""
    scores, table = findings.scores, findings.data.table
    names = table.names().take(pa.array(rows)).to_pylist()
    return [
        Shown(
            int(row),
            name,
            caption,
            thumbnail(picture, is_framed and scores.standing['detail'][row] >= STANDS_OUT),
            float(scores.similarity[row]),
            float(findings.p_value[row]),
            float(scores.suspicion[row]),
            NAMES[scores.reason[row]],
            {score: max(0.0, float(standing[row])) for score, standing in scores.standing.items()},
        )
        for row, name, caption, picture in zip(
            rows, names, table.captions(rows), findings.data.images(rows), strict=True
        )
    ]


def _groups(findings: Findings, found: Clusters) -> list[Group]:
    return [
        Group(len(rows), rows.tolist() if len(rows) <= MAX_DECIDED else [], show(findings, rows[:PAIRS_OF_GROUP]))
        for rows in found.largest
    ]
