"""Writes a report as Markdown, LaTeX or one HTML page, by the ending of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from callbacks.figure_files import save_figure
from datamodules.files.atomic import write_text
from datamodules.usage_error import UsageError
from experiments.report_sections import Section
from experiments.table_forms import Table, latex

Sections = Iterable[Section]


def write_report(path: Path, title: str, sections: Sections) -> None:
    """Writes a report; Markdown and LaTeX have their figures as PNG files beside them.

    Raises:
        UsageError: If the file has another ending, or cannot be written.
    """
    forms: dict[str, Callable[[Path, str, Sections], str]] = {'.html': _page, '.md': _markdown, '.tex': _latex}
    if path.suffix.lower() not in forms:
        raise UsageError(f'{path} has no ending of a report: give a file that ends in .html, .md or .tex.')
    write_text(path, forms[path.suffix.lower()](path, title, sections))


def _page(path: Path, title: str, sections: Sections) -> str:
    from experiments.report_page.page import render_report  # imports jinja2

    return render_report(title, sections)


def _markdown(path: Path, title: str, sections: Sections) -> str:
    parts = [f'# {title}']
    for section, figure in _with_figures(path, sections):
        table = str(section.content).replace('&', '&amp;').replace('<', '&lt;')  # names could be HTML
        content = table if figure is None else f'![{section.title}]({figure})'
        parts += [f'## {section.title}', section.about, content]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _latex(path: Path, title: str, sections: Sections) -> str:
    parts = [r'% needs \usepackage{booktabs} and \usepackage{graphicx}']
    for section, figure in _with_figures(path, sections):
        drawn = rf'\includegraphics[width=\linewidth]{{{figure}}}'
        content = latex(section.content) if isinstance(section.content, Table) else drawn
        parts.append(f'% {section.title}\n{content}')
    return '\n\n'.join(parts) + '\n'


def _with_figures(path: Path, sections: Sections) -> Iterator[tuple[Section, str | None]]:
    """Each section with the name of the file that its figure was saved in; ``None`` for a table."""
    for number, section in enumerate(sections, 1):
        if isinstance(section.content, Table):
            yield section, None
        else:
            figure = path.with_name(f'{path.stem}_{number}.png')
            save_figure(section.content, figure, dpi=150)
            yield section, figure.name
