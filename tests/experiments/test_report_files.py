from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from experiments.report_files import write_report
from experiments.report_sections import Section
from experiments.table_forms import Table

SECTIONS = [Section('Runs', Table.of([['run'], ['clip_1']]), 'How to read it.'), Section('Curves', Figure())]


def test_markdown_has_headings_and_its_figures_beside_it(tmp_path: Path) -> None:
    write_report(tmp_path / 'new' / 'r.md', 'Report', SECTIONS)
    text = (tmp_path / 'new' / 'r.md').read_text()
    assert text.startswith('# Report\n\n## Runs\n\nHow to read it.\n\n| run |\n')
    assert text.endswith('## Curves\n\n![Curves](r_2.png)\n') and (tmp_path / 'new' / 'r_2.png').stat().st_size


def test_names_are_no_html_in_markdown(tmp_path: Path) -> None:
    write_report(tmp_path / 'r.md', 'Report', [Section('Runs', Table.of([['run'], ['<b> & c']]))])
    assert '| &lt;b> &amp; c |' in (tmp_path / 'r.md').read_text()


def test_latex_has_tables_and_includes_figures(tmp_path: Path) -> None:
    write_report(tmp_path / 'r.tex', 'Report', SECTIONS)
    text = (tmp_path / 'r.tex').read_text()
    assert r'clip\_1 \\' in text and r'\includegraphics[width=\linewidth]{r_2.png}' in text


def test_a_page_is_one_file(tmp_path: Path) -> None:
    write_report(tmp_path / 'r.html', 'Report', SECTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ['r.html']
    assert 'clip_1' in (tmp_path / 'r.html').read_text()
