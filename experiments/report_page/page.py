"""Renders a report as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report_sections import Section
from experiments.self_contained_page import figure_uri
from experiments.table_forms import Table

TEMPLATE = Path(__file__).with_name('page.html')


def render_page(title: str, sections: Iterable[Section]) -> str:
    """The page as HTML. Names of runs, attacks and sets come from files: all text is escaped, and no script may run.

    Args:
        title: Title of the page.
        sections: Its parts; figures are drawn into it.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE.name).render(
        title=title,
        sections=list(sections),
        is_table=lambda content: isinstance(content, Table),
        draw=partial(figure_uri, dpi=130),
    )
