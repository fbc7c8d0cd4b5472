"""Opens the page of an audit in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.rows.decisions import DecisionsFilter
from tests.experiments.audit.audited import PATCHED_ROW, findings, page_of
from tests.helpers.browser import Browser, browser, wait_for_file
from tests.helpers.suspicious import COPIED, PATCHED, PATTERNED

pytestmark = pytest.mark.slow
PLANTED = len(PATCHED) + len(PATTERNED) + len(COPIED)  # which come first
HOSTILE = [
    '<script>hacked = 1</script>',
    '"><img src=x onerror="hacked = 1">',
    '<svg onload="hacked = 1"><a href="javascript:hacked = 1">click</a>',
    '</td></tr></table><iframe srcdoc="<script>parent.hacked = 1</script>"></iframe>',
    '</bdi></body></html><meta http-equiv="refresh" content="0;url=http://127.0.0.1:9/">',
]
ROWS = [*PATCHED[: len(HOSTILE)].tolist()]
FOUND = findings(
    dict(zip(ROWS, HOSTILE, strict=True)), {row: f'a/{text}' for row, text in zip(ROWS, HOSTILE, strict=True)}
)
SHOWN = "[...document.querySelectorAll('.pair')].filter((pair) => !pair.hidden).map((pair) => Number(pair.dataset.row))"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    """The page of an audit of pairs of which some have hostile captions and names."""
    (tmp_path / 'page.html').write_text(page_of(FOUND, PLANTED), encoding='utf-8')
    with browser(tmp_path / 'profile') as opened:
        opened.open(tmp_path / 'page.html', tmp_path / 'downloads')
        yield opened


def choose(page: Browser, id: str, value: str) -> Any:
    """Enters a value and returns the rows that are shown then."""
    page.run(
        f'document.getElementById({id!r}).value = {json.dumps(value)}; '
        f"document.getElementById({id!r}).dispatchEvent(new Event('input'))"
    )
    return page.run(SHOWN)


def click(page: Browser, selector: str) -> None:
    page.run(f'document.querySelector({json.dumps(selector)}).click()')


def test_a_stranger_s_text_does_nothing_and_nothing_is_fetched(page: Browser) -> None:
    page.run("document.querySelectorAll('.pair, .pair *').forEach((element) => element.click())")
    assert page.run('window.hacked === undefined')
    assert page.run("document.querySelectorAll('script, iframe, svg, a, .pair img').length") == 1 + PLANTED
    assert page.run(f"document.querySelector('#row-{ROWS[0]} .caption').textContent") == HOSTILE[0]
    requests = [
        each['params']['request']['url'] for each in page.events if each['method'] == 'Network.requestWillBeSent'
    ]
    assert {url.partition(':')[0] for url in requests} <= {'file', 'data'}
    assert sum(url.startswith('file:') for url in requests) == 1
    complaints = [each for each in page.events if each['method'] in ('Log.entryAdded', 'Runtime.exceptionThrown')]
    assert not complaints


def test_the_policy_keeps_a_script_from_running_that_gets_in_all_the_same(page: Browser) -> None:
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"hacked = 1\">')")
    page.run("const added = document.createElement('script'); added.text = 'hacked = 1'; document.body.append(added)")
    page.run('new Promise((resolve) => setTimeout(resolve, 200))')
    assert page.run('window.hacked === undefined')


def test_the_search_finds_captions_names_and_rows(page: Browser) -> None:
    assert len(page.run(SHOWN)) == PLANTED
    assert choose(page, 'search', 'ONERROR="hacked') == [ROWS[1]]
    assert choose(page, 'search', f'row {PATTERNED[3]}') == [PATTERNED[3]]
    assert {*choose(page, 'search', 'bird number')} >= {*COPIED.tolist()}
    assert choose(page, 'search', 'no such words') == []
    assert len(choose(page, 'search', ' ')) == PLANTED


def test_filters_combine(page: Browser) -> None:
    assert {*choose(page, 'why', 'detail')} == {*PATCHED.tolist()}
    assert choose(page, 'search', 'onload') == [ROWS[2]]
    assert choose(page, 'why', 'copies') == []


def test_decisions_are_saved_and_come_back_as_a_filter(page: Browser, tmp_path: Path) -> None:
    choose(page, 'why', 'detail')
    click(page, "[data-bulk='drop']")
    choose(page, 'why', '')
    click(page, f"#row-{PATCHED_ROW} [data-decision='keep']")
    click(page, f"#row-{PATTERNED[0]} [data-decision='unsure']")
    click(page, f"[data-rows='{' '.join(map(str, COPIED))}'] [data-decision='drop']")  # a group at once
    click(page, f"#row-{COPIED[2]} [data-decision='drop']")  # undone
    assert page.run("document.getElementById('counts').textContent") == '1 to keep, 21 to drop, 1 unsure'
    assert {*choose(page, 'decided', 'drop')} == {*PATCHED[1:].tolist(), *np.delete(COPIED, 2).tolist()}
    click(page, '#save')
    saved = json.loads(wait_for_file(tmp_path / 'downloads/decisions.json'))
    assert saved['keep'] == [PATCHED_ROW] and saved['unsure'] == [PATTERNED[0]]
    dropped = DecisionsFilter(str(tmp_path / 'downloads/decisions.json')).drop(FOUND.data.table)
    assert np.flatnonzero(dropped).tolist() == sorted([*PATCHED[1:].tolist(), *np.delete(COPIED, 2).tolist()])


@pytest.mark.parametrize(
    ('change', 'counts', 'problem'),
    [
        ({}, '1 to keep, 1 to drop, 0 unsure', ''),
        ({'fingerprint': '0'}, '0 to keep, 0 to drop, 0 unsure', 'This file cannot be read: it is of another data set'),
        ({'drop': None}, '0 to keep, 0 to drop, 0 unsure', 'This file cannot be read: '),
    ],
)
def test_goes_on_from_whole_decisions_of_this_data_set_alone(
    change: dict[str, object], counts: str, problem: str, page: Browser
) -> None:
    of_this = {'fingerprint': FOUND.data.table.fingerprint, 'keep': [PATCHED_ROW], 'drop': [PATTERNED.tolist()[1]]}
    saved = {**of_this, 'unsure': [], **change}
    page.run(f'load(new Blob([JSON.stringify({json.dumps(saved)})]))')
    assert page.run("document.getElementById('counts').textContent") == counts
    assert page.run("document.getElementById('problem').textContent").startswith(problem)
