"""What the pages claim about the repository's files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT

PAGES = sorted([*(ROOT / 'docs').glob('*.md'), *ROOT.glob('*.md')])
EXAMPLES = {  # files a reader would write
    'datamodules/attacks/gray_square.py',
    'experiments/attacks/gray_square.yaml',
    'experiments/methods/uniform_clip.yaml',
}
FILE = re.compile(r'`((?:datamodules|callbacks|lightning_modules|experiments|tests|docs)/[\w/.]+\.(?:py|yaml))`')
CONFIG = re.compile(r'--config[ =]([\w/.]+\.yaml)')
LINK = re.compile(r'\]\(([^)#]+)(?:#[\w-]*)?\)')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_names_no_file_that_is_not_there(page: Path) -> None:
    named = set(FILE.findall(page.read_text())) - EXAMPLES
    assert not {name for name in named if not (ROOT / name).is_file()}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_to_files_that_are_there(page: Path) -> None:
    targets = {re.sub(r'\s+', ' ', target) for target in LINK.findall(page.read_text())}
    local = {target for target in targets if not target.startswith(('http', 'mailto'))}
    assert not {target for target in local if not (page.parent / target).exists()}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_commands_name_configurations_that_come_with_the_project(page: Path) -> None:
    named = {name for name in CONFIG.findall(page.read_text()) if not name.startswith('runs/')}
    files = {f'experiments/{name}' for name in named} - EXAMPLES
    assert not {name for name in files if not (ROOT / name).is_file()}


@pytest.mark.parametrize('page', sorted((ROOT / 'docs').glob('*.md')), ids=lambda page: page.name)
def test_a_page_begins_with_what_a_reader_can_do_with_it(page: Path) -> None:
    first = page.read_text().split('\n\n')[1]
    assert first.startswith('Use this page to ') or page.name in ('index.md', 'troubleshooting.md', 'truth.md')


def test_the_figure_of_a_pair_s_way_is_what_its_script_draws(tmp_path: Path) -> None:
    script = (ROOT / 'docs/site/pair_figure.py').read_text()
    (tmp_path / 'docs/images').mkdir(parents=True)
    (tmp_path / 'docs/site').mkdir()
    (tmp_path / 'docs/site/pair_figure.py').write_text(script)
    subprocess.run([sys.executable, tmp_path / 'docs/site/pair_figure.py'], check=True)
    assert (tmp_path / 'docs/images/pair.svg').read_text() == (ROOT / 'docs/images/pair.svg').read_text()


def test_the_figure_names_files_that_are_there() -> None:
    drawn = re.findall(r'class="file"[^>]*>([\w/]+\.py)', (ROOT / 'docs/images/pair.svg').read_text())
    folders = (ROOT, ROOT / 'datamodules')
    assert drawn and not {name for name in drawn if not any((folder / name).is_file() for folder in folders)}
