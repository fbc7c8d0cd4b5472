from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INIT = '__init__'
PACKAGES = ('lightning_modules', 'datamodules', 'callbacks', 'experiments')
MAY_IMPORT = {  # experiments -> callbacks -> lightning_modules -> what is shared of datamodules
    'lightning_modules': {'datamodules'},
    'datamodules': set(),
    'callbacks': {'lightning_modules', 'datamodules'},
    'experiments': {'callbacks', 'lightning_modules', 'datamodules'},
}
FOLDERS = ('files', 'rows', 'text', 'pictures', 'evaluation', 'attacks')  # of datamodules, lowest layer first
SHARED = {'usage_error', 'contracts'}  # modules of datamodules that every folder may import
PROMISED = {*SHARED, 'protection'}  # and that modules may import
MAY_SEE_POISON = {  # data and tools that may know which rows are poisoned; callbacks may if they decide nothing
    'datamodules/contracts.py',
    'datamodules/export.py',
    'datamodules/pairs.py',
    'experiments/check/attack_check.py',
    'experiments/bench/split.py',
    'experiments/surrogates/harden.py',
    'experiments/plan.py',
    'experiments/run_results.py',
    'experiments/wandb_files.py',
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


MODULES = [path for path in sources() if name(path).startswith('lightning_modules/')]


@pytest.mark.parametrize('path', MODULES, ids=name)
def test_modules_import_nothing_of_the_data_but_what_it_promises(path: Path) -> None:
    assert imported_datamodules(path) <= PROMISED


def sees_poison(path: Path) -> bool:
    return bool({'manifest', 'Manifest', 'truth_of', 'Truth'} & identifiers(path))


def imported_files(path: Path) -> set[str]:
    """Files that a file imports, or names from; ``<package>/__init__.py`` for a class that a package exports."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = str(node.module).replace('.', '/')
            imported |= {f'{module}.py', *(f'{module}/{x.name if x.name.islower() else INIT}.py' for x in node.names)}
    return imported


def stored_names(path: Path) -> set[str]:
    """Names and attributes that a file assigns to, also an item or an in-place change of them."""
    stored: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Name) and isinstance(node.ctx, ast.Store):
            stored |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return stored


@pytest.mark.parametrize('path', sources(), ids=name)
def test_only_attacks_and_what_measures_see_which_rows_are_poisoned(path: Path) -> None:
    allowed = name(path) in MAY_SEE_POISON or name(path).startswith(('datamodules/attacks/', 'callbacks/'))
    assert allowed or not sees_poison(path)


EXPORTS = f'callbacks/{INIT}.py'  # of classes that measure and of classes that decide
DECIDE = {
    'callbacks/repartition.py',
    'callbacks/split_callback.py',
    'callbacks/scores.py',
    EXPORTS,
}  # what builds on these decides too
CALLBACKS = [path for path in sources() if name(path).startswith('callbacks/') and path.stem != INIT]


def decides_and_sees_poison(path: Path) -> bool:
    """Whether a callback that decides which pairs are trusted may know, itself or by an import, which are poisoned."""
    decides = 'pairs_of' in identifiers(path) or DECIDE & imported_files(path) or 'side' in stored_names(path)
    measuring = {EXPORTS, *(name(callback) for callback in CALLBACKS if sees_poison(callback))}
    return bool(decides and (sees_poison(path) or imported_files(path) & measuring))


@pytest.mark.parametrize('path', CALLBACKS, ids=name)
def test_a_callback_that_decides_does_not_see_which_rows_are_poisoned(path: Path) -> None:
    assert not decides_and_sees_poison(path)


@pytest.mark.parametrize(
    ('lines', 'cheats'),
    [
        (['from datamodules.contracts import truth_of', 'count = len(truth_of(trainer).manifest)'], False),
        (['from datamodules.contracts import pairs_of', 'count = len(pairs_of(trainer).partition)'], False),
        (['from datamodules.contracts import pairs_of, truth_of'], True),
        (['from datamodules.contracts import pairs_of', 'from callbacks.ledger import ScoreLedger'], True),
        (['from callbacks.scores import Clean', 'poisons = trainer.datamodule.manifest.rows()'], True),
        (['from datamodules.contracts import truth_of', 'truth_of(trainer).partition.side[rows] = RISKY'], True),
    ],
)
def test_finds_a_callback_that_decides_by_the_truth(lines: list[str], cheats: bool, tmp_path: Path) -> None:
    path = tmp_path / 'callback.py'
    path.write_text('\n'.join(lines))
    assert decides_and_sees_poison(path) is cheats


def test_the_list_of_those_who_may_see_poison_names_no_file_that_is_gone() -> None:
    assert not MAY_SEE_POISON - {name(path) for path in sources()}


def test_walks_every_package() -> None:
    assert {name(path).split('/')[0] for path in sources()} == set(PACKAGES)
