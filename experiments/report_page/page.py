"""Renders a report as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from experiments.report_sections import Section
from experiments.self_contained_page import figure_uri, render_page
from experiments.table_forms import Table


def render_report(title: str, sections: Iterable[Section]) -> str:
    """The page as HTML. Names of runs, attacks and sets come from files: all text is escaped, and no script may run.

    Args:
        title: Title of the page.
        sections: Its parts; figures are drawn into it.
    """
    return render_page(
        Path(__file__).parent,
        'page',
        title=title,
        sections=list(sections),
        is_table=lambda content: isinstance(content, Table),
        draw=partial(figure_uri, dpi=130),
    )
