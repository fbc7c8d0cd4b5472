"""HTML pages in one file, which load nothing from elsewhere, and in which nothing that they show can run."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render_page(folder: Path, name: str, **values: Any) -> str:
    """Fills ``<name>.html`` with values, each of which is escaped, with ``<name>.css`` and any ``<name>.js``.

    The template places ``policy``, a Content-Security-Policy, before anything else, then ``style`` and ``script``. A
    browser then runs this script alone, told by its hash, or none, applies this style alone, and fetches nothing.

    Args:
        folder: Folder of the files.
        name: Their name, without an ending.
        values: What the template shows. Attributes must be quoted there.
    """
    loader = FileSystemLoader(folder)
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True)
    paths = [folder / f'{name}.{ending}' for ending in ('css', 'js')]
    style, script = (path.read_text(encoding='utf-8') if path.exists() else '' for path in paths)
    own = {'policy': policy(style, script), 'style': Markup(style), 'script': Markup(script)}  # our own files
    return environment.get_template(f'{name}.html').render(**own, **values)


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy that allows one style, one script, if any, and pictures that are part of the page."""
    scripts = f"script-src '{_digest(script)}'; " if script else ''
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; {scripts}base-uri 'none'; form-action 'none'"
    )


def data_uri(content: bytes, kind: str) -> str:
    """A picture as part of a page.

    Args:
        content: The encoded picture.
        kind: Its form, such as ``jpeg``.
    """
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def figure_uri(figure: Figure, dpi: int) -> str:
    """A figure as part of a page, a PNG of this many dots an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imports NumPy and fonts

    figure.set_dpi(dpi)
    content = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(content)
    return data_uri(content.getvalue(), 'png')


def _digest(text: str) -> str:
    return f'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'
