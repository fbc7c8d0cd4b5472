from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from datamodules.pair_scores import NAMES
from experiments.audit.page import SCORES, count_flagged
from experiments.tools.audit import MAX_ROWS
from tests.experiments.audit.audited import PATCHED_ROW, findings, page_of
from tests.helpers.suspicious import COPIED, PAIRS, PATCHED, PATTERNED

HOSTILE = '"><script>hacked=1</script><img src=x onerror=hacked=1> onclick="hacked=1" \u202e\x00'
FOUND = findings({PATCHED_ROW: HOSTILE}, {PATCHED_ROW: f'photos/{HOSTILE}.jpg'})
PAGE = page_of(FOUND)


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ''
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


TAGS = Tags(PAGE)


def rows_shown() -> list[int]:
    return [int(str(attributes['data-row'])) for _, attributes in TAGS.tags if 'data-row' in attributes]


def test_what_was_planted_is_shown_first() -> None:
    planted = {*PATCHED.tolist(), *PATTERNED.tolist(), *COPIED.tolist()}
    assert {*rows_shown()[: len(planted)]} == planted and len(rows_shown()) == 60


def test_says_how_many_stand_out_and_why() -> None:
    flagged = count_flagged(FOUND)
    assert flagged['all'] == sum(flagged[name] for name in NAMES) >= 38 and flagged['detail'] >= 15
    said = re.sub(r'\s+', ' ', TAGS.text)
    assert f'{flagged["all"]} pairs stand out' in said and f'shared detail {flagged["detail"]}' in said
    assert 'The 60 most suspicious pairs of 438; 378 are not shown.' in said


def test_shows_what_the_set_is_and_its_groups() -> None:
    text = re.sub(r'\s+', ' ', TAGS.text)
    assert re.search(f'pairs ?{PAIRS}', text) and re.search('pictures that occur several times ?1, in 8 pairs', text)
    assert 'The 1 largest of 1 groups' in text and '8 pairs' in text
    groups = [str(attributes.get('data-rows')) for _, attributes in TAGS.tags]
    assert ' '.join(map(str, COPIED)) in groups  # to decide on at once


def test_loads_nothing_and_holds_no_script_but_its_own() -> None:
    assert [tag for tag, _ in TAGS.tags].count('script') == 1
    for tag, attributes in TAGS.tags:
        assert not {'style', 'href', 'srcset'} & attributes.keys() and not [a for a in attributes if a.startswith('on')]
        assert str(attributes.get('src', 'data:')).startswith('data:'), tag
    (policy,) = (attributes['content'] for _, attributes in TAGS.tags if 'http-equiv' in attributes)
    assert "default-src 'none'" in str(policy) and 'unsafe' not in str(policy)


def test_a_stranger_s_text_is_shown_as_text() -> None:
    assert '<script>hacked=1</script>' in TAGS.text and '<script>hacked' not in PAGE
    assert '<img src=x' in TAGS.text and '<img src=x' not in PAGE  # a class, too


def test_each_score_is_explained() -> None:
    assert tuple(SCORES) == NAMES and all(meaning in TAGS.text for _, meaning in SCORES.values())


def test_says_so_if_no_pair_stands_out() -> None:
    scores = FOUND.scores._replace(standing={name: np.minimum(s, 7) for name, s in FOUND.scores.standing.items()})
    assert 'No pair stands out.' in page_of(FOUND._replace(scores=scores))


@pytest.mark.parametrize('compared', [0, 16])
def test_a_model_that_cannot_tell_is_named(compared: int) -> None:
    blind = FOUND._replace(shuffled=FOUND.scores.similarity[:compared])
    assert 'cannot tell which pairs match' in page_of(blind)


def test_is_below_5_mb_with_the_largest_pictures_and_captions() -> None:
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (PAIRS, 3, 64, 64), dtype=np.uint8)
    long = {row: chr(0x1F600) * 9000 for row in range(PAIRS)}
    page = page_of(findings(long, {row: f'{row}' + '"' * 4000 for row in range(PAIRS)}, pictures=noise), MAX_ROWS)
    assert page.count('class="pair"') == MAX_ROWS and len(page.encode()) < 5_000_000
