"""A table of text, as Markdown or LaTeX; :mod:`experiments.report_page` makes HTML of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

LATEX = {  # what has a meaning of its own there, or is no letter of its fonts
    '\\': r'\textbackslash{}', '{': r'\{', '}': r'\}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
    **{letter: f'\\{letter}' for letter in '&%$#_'},
    '†': r'$\dagger$', '±': r'$\pm$', '<': r'\textless{}', '>': r'\textgreater{}',
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of text. It is false without a row below its head; as a string, it is Markdown.

    Attributes:
        rows: Rows of equal length, the head first.
        notes: Lines that explain its marks.
        published: Number of rows, the last ones, whose figures are those of a paper.
    """

    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    published: int = 0

    @classmethod
    def of(cls, rows: Iterable[Sequence[str]], notes: Iterable[str] = (), published: int = 0) -> Table:
        """A table whose text is printable.

        Names of runs come from files: none may forge a row or send a terminal what it obeys.
        """
        return cls([[*map(_printable, row)] for row in rows], [*map(_printable, notes)], published)

    def with_notes(self, *notes: str) -> Table:
        """The same with further notes, empty ones left out."""
        return replace(self, notes=[*self.notes, *filter(None, notes)])

    def is_published(self, row: Sequence[str]) -> bool:
        """Whether a row is of a paper."""
        return any(row is other for other in self.rows[len(self.rows) - self.published :])

    def __bool__(self) -> bool:
        return len(self.rows) > 1

    def __str__(self) -> str:
        head, *body = self.rows
        lines = (head, ['---'] * len(head), *body)
        text = '\n'.join(f'| {" | ".join(cell.replace("|", "/") for cell in row)} |' for row in lines)
        return text + ('\n\n' + '\n'.join(self.notes) if self.notes else '')


def latex(table: Table) -> str:
    """A table for the LaTeX package ``booktabs``, its notes as a paragraph below it."""
    head, *body = [_latex_row(row) for row in table.rows]
    before_published = [r'\midrule'] if 0 < table.published < len(body) else []
    at = len(body) - table.published
    lines = [
        rf'\begin{{tabular}}{{l{"r" * (len(table.rows[0]) - 1)}}}',
        r'\toprule', head, r'\midrule', *body[:at], *before_published, *body[at:], r'\bottomrule', r'\end{tabular}',
    ]  # fmt: skip
    return '\n'.join(lines + [rf'\par {_latex(note)}' for note in table.notes])


def _latex_row(row: Sequence[str]) -> str:
    text = ' & '.join(map(_latex, row))
    return ('{}' if text.startswith(('[', '*')) else '') + text + r' \\'  # the end of a row would take both as its own


def _latex(text: str) -> str:
    return ''.join(LATEX.get(letter, letter) for letter in text)


def _printable(text: str) -> str:
    return ''.join(letter if letter.isprintable() else '?' for letter in text)
