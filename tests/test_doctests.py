from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ('lightning_modules', 'datamodules', 'callbacks', 'experiments')
MODULES = [
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob('*.py'))
    if '>>> ' in path.read_text(encoding='utf-8')
]


@pytest.mark.parametrize('name', MODULES)
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some examples write files
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted and not result.failed


def test_examples_exist() -> None:
    assert len(MODULES) >= 10
