"""Renders a report as one HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report_sections import Section
from experiments.table_forms import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        title=title, sections=list(sections), is_table=lambda content: isinstance(content, Table), draw=_data_url
    )


def _data_url(figure: Figure) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=130)
    return f'data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}'
