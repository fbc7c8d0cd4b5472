from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ('lightning_modules', 'datamodules', 'callbacks', 'experiments')
MAY_IMPORT = {  # experiments -> callbacks -> lightning_modules -> what is shared of datamodules
    'lightning_modules': {'datamodules'},
    'datamodules': set(),
    'callbacks': {'lightning_modules', 'datamodules'},
    'experiments': {'callbacks', 'lightning_modules', 'datamodules'},
}
FOLDERS = ('files', 'rows', 'text', 'pictures', 'evaluation', 'attacks')  # of datamodules, lowest layer first
SHARED = {'usage_error', 'contracts'}  # modules of datamodules that every folder may import
MAY_SEE_POISON = {  # who may know which rows are poisoned; a defense that did would prove nothing
    'datamodules/contracts.py',
    'datamodules/export.py',
    'datamodules/pairs.py',
    'callbacks/attack_success.py',
    'callbacks/evaluation_tally.py',
    'callbacks/zero_shot.py',
    'callbacks/ledger.py',
    'callbacks/figures.py',
    'experiments/check/attack_check.py',
    'experiments/bench/split.py',
    'experiments/surrogates/harden.py',
    'experiments/plan.py',
    'experiments/results.py',
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob('*.py'))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports, also inside functions and under ``TYPE_CHECKING``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add('a relative import' if node.level else str(node.module).split('.')[0])
    return found


def imported_datamodules(path: Path) -> set[str]:
    """Names directly below ``datamodules`` that a file imports, such as ``rows``; ``''`` for the package itself."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=aliases):
                modules |= {alias.name for alias in aliases}
            case ast.ImportFrom(module='datamodules', names=aliases):
                modules |= {f'datamodules.{alias.name}' for alias in aliases}
            case ast.ImportFrom(module=str(module)):
                modules.add(module)
    return {f'{module}.'.split('.')[1] for module in modules if module.split('.')[0] == 'datamodules'}


def identifiers(path: Path) -> set[str]:
    """Every name, attribute, argument, keyword and imported module of a file, and strings that are but one word."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.keyword(arg=str(word)):
                found.add(word)
            case ast.Constant(value=str(word)):  # getattr(datamodule, 'manifest')
                found.add(word)
            case ast.alias(name=word) | ast.ImportFrom(module=str(word)):
                found |= set(word.split('.'))
    return found


@pytest.mark.parametrize('path', sources(), ids=name)
def test_imports_point_one_way(path: Path) -> None:
    package = name(path).split('/')[0]
    refused = (set(PACKAGES) - MAY_IMPORT[package] - {package}) | {'tests', 'a relative import'}
    assert not imported_packages(path) & refused


@pytest.mark.parametrize('path', [path for path in sources() if path.parts[-3] == 'datamodules'], ids=name)
def test_folders_of_datamodules_are_layered(path: Path) -> None:
    folder = path.parent.name
    assert imported_datamodules(path) <= {*FOLDERS[: FOLDERS.index(folder) + 1], *SHARED}


@pytest.mark.parametrize('path', sources(), ids=name)
def test_only_attacks_and_reports_see_which_rows_are_poisoned(path: Path) -> None:
    allowed = name(path) in MAY_SEE_POISON or name(path).startswith('datamodules/attacks/')
    assert allowed or not {'manifest', 'Manifest', 'truth_of', 'Truth'} & identifiers(path)


def test_the_list_of_those_who_may_see_poison_names_no_file_that_is_gone() -> None:
    assert not MAY_SEE_POISON - {name(path) for path in sources()}


def test_walks_every_package() -> None:
    assert {name(path).split('/')[0] for path in sources()} == set(PACKAGES)
