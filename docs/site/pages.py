"""Pages that nobody writes: the API, one page a folder, the notebook, and the documents beside the README.

MkDocs calls the functions named ``on_*`` (``hooks`` in mkdocs.yml). A new source file shows up without registration.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGES = ('lightning_modules', 'datamodules', 'callbacks', 'experiments')
BESIDE_README = ('CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md')


def source_folders() -> dict[str, list[str]]:
    """The public modules of each folder of the packages, by the folder's dotted name."""
    folders: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob('*.py'), key=lambda path: (path.parent, path.name)):
            if not path.stem.startswith('_'):
                parts = path.relative_to(ROOT).with_suffix('').parts
                folders.setdefault('.'.join(parts[:-1]), []).append('.'.join(parts))
    return folders


def api_page(folder: str, modules: list[str]) -> str:
    """One heading for each module; mkdocstrings fills in what is below it."""
    return '\n\n'.join([f'# {folder}', *(f'::: {module}' for module in modules)]) + '\n'


def notebook_page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook as a page, without outputs."""
    cells = []
    for cell in notebook['cells']:
        text = ''.join(cell['source'])
        cells.append(f'```python\n{text}\n```' if cell['cell_type'] == 'code' else text)
    return '\n\n'.join(cells) + '\n'


def moved_into_docs(text: str) -> str:
    """Links of a document beside the README as they read from ``docs/``."""
    text = re.sub(r'\]\(docs/', '](', text)
    return re.sub(r'\]\(([A-Z]+)\.md', lambda match: f']({match[1].lower()}.md', text)


def as_on_site(text: str) -> str:
    """Links to files that the site has as generated pages."""
    text = re.sub(r'\]\(\.\./([A-Z]+)\.md', lambda match: f']({match[1].lower()}.md', text)
    return text.replace('](tour.ipynb)', '](tour.md)')


def generated_pages() -> dict[str, str]:
    """Content of each page by its path on the site."""
    pages = {f'api/{folder}.md': api_page(folder, modules) for folder, modules in source_folders().items()}
    for name in BESIDE_README:
        pages[name.lower()] = moved_into_docs((ROOT / name).read_text())
    tour = ROOT / 'docs' / 'tour.ipynb'
    if tour.exists():
        pages['tour.md'] = notebook_page(json.loads(tour.read_text()))
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the API in the navigation."""
    assert config.nav is not None
    config.nav.append({'API': [{folder: f'api/{folder}.md'} for folder in source_folders()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for path, content in generated_pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets pages link files as they lie in the repository."""
    return as_on_site(markdown)
