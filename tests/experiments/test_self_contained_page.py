from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from experiments.self_contained_page import data_uri, render_page

PAGE = (
    '<meta content="{{ policy }}"><style>{{ style }}</style><p title="{{ text }}">{{ text }}</p>'
    '<script>{{ script }}</script>'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for ending, content in (
        ('html', PAGE),
        ('css', 'p > a { color: "red" }\n'),
        ('js', "'use strict';\n1 < 2 && 3;\n"),
    ):
        (tmp_path / f'page.{ending}').write_text(content)
    return tmp_path


@pytest.mark.parametrize('text', ['<script>alert(1)</script>', '" onmouseover="alert(1)', "'><img src=x>", '{{ 7*7 }}'])
def test_what_is_shown_is_text_whatever_it_holds(text: str, folder: Path) -> None:
    body = re.search('<p title="(.*)">(.*)</p>', render_page(folder, 'page', text=text))
    assert body and not {'<', '>', '"', "'"} & {*body[1], *body[2]}
    assert '49' not in body[0]


def test_the_policy_allows_this_script_and_this_style_alone(folder: Path) -> None:
    page = render_page(folder, 'page', text='')
    for tag in ('style', 'script'):
        content = re.search(f'<{tag}>(.*)</{tag}>', page, re.DOTALL)
        assert content
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f'{tag}-src &#39;sha256-{digest}&#39;' in page
    assert 'default-src &#39;none&#39;' in page and 'unsafe' not in page


def test_a_value_that_is_missing_is_an_error(folder: Path) -> None:
    with pytest.raises(UndefinedError):
        render_page(folder, 'page')


def test_a_picture_is_part_of_the_page() -> None:
    assert data_uri(b'abc', 'png') == 'data:image/png;base64,YWJj'
