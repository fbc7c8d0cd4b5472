from __future__ import annotations

from html.parser import HTMLParser

from matplotlib.figure import Figure

from experiments.report_page.page import render_report
from experiments.report_sections import Section
from experiments.table_forms import Table

HOSTILE = '<script>alert(1)</script>" onload="alert(2)'


class Elements(HTMLParser):
    """Collects the elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ''
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_comes_from_files_is_text_alone() -> None:
    table = Table.of([['run', HOSTILE], [HOSTILE, '0.5']], [HOSTILE])
    page = Elements(render_report(HOSTILE, [Section(HOSTILE, table, HOSTILE), Section(HOSTILE, Figure())]))
    assert 'script' not in {tag for tag, _ in page.found} and page.text.count(HOSTILE) == 10
    assert not any(name.startswith('on') for _, attributes in page.found for name in attributes)


def test_nothing_is_read_from_elsewhere() -> None:
    page = Elements(render_report('a report', [Section('figure', Figure())]))
    sources = [value for _, attributes in page.found for name, value in attributes.items() if name in ('src', 'href')]
    assert [str(source).partition(',')[0] for source in sources] == ['#section-1', 'data:image/png;base64']
    (policy,) = [attributes['content'] for _, attributes in page.found if 'http-equiv' in attributes]
    assert str(policy).startswith("default-src 'none'") and 'script-src' not in str(policy)


def test_rows_of_a_paper_are_marked() -> None:
    page = Elements(render_report('a report', [Section('t', Table.of([['run'], ['ours'], ['theirs']], published=1))]))
    rows = [attributes for tag, attributes in page.found if tag == 'tr']
    assert rows == [{}, {}, {'class': 'published'}]
