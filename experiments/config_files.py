"""Finds YAML files of options, and the files that they build on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

import yaml

from datamodules.usage_error import UsageError

SHIPPED = Path(__file__).parent
BASE_BLOCK = re.compile(r'^base:.*(?:\n[ \t-].*)*', re.MULTILINE)  # the key and the indented or listed lines below it
RUN_NAME_FOLDERS = ('methods', 'data')  # the names of files in these folders make up a run's name, in this order
DEFAULT_RUN_NAME = 'run'


def find_config(name: str, *folders: Path) -> Path:
    """Returns the path of a YAML file.

    Args:
        name: Path, absolute or relative to one of the folders or to the folder of shipped files.
        folders: Folders to search before that of the shipped files, in this order.

    Raises:
        UsageError: If there is no such file; the message lists shipped files with similar names.
    """
    for folder in (*folders, SHIPPED):
        if (path := folder / name).is_file():
            return path.absolute()
    similar = _similar_names(name)
    hint = f'did you mean {", ".join(similar)}?' if similar else 'give its path, or the name of a shipped file.'
    raise UsageError(f'config: File does not exist: {name}; {hint}')


def _similar_names(name: str) -> list[str]:
    shipped = sorted(path for path in SHIPPED.rglob('*.yaml') if path.parent.name != 'grids')
    stems = {path.stem for path in shipped}
    close = [Path(name).stem] if Path(name).stem in stems else get_close_matches(Path(name).stem, stems)
    return [path.relative_to(SHIPPED).as_posix() for stem in close for path in shipped if path.stem == stem]


def without_base(text: str) -> str:
    """Removes the key ``base``, which the parser does not know, from the text of a file."""
    return BASE_BLOCK.sub('', text, count=1)


def with_bases(config: str) -> list[str]:
    """Lists a file after all files that it builds on, in the order in which they are merged.

    The top-level key ``base`` of a file names files to merge before it. They are searched for beside that file, then
    among the shipped ones, and may have bases of their own::

        base: [data/cifar10.yaml, methods/safeclip.yaml]

    Args:
        config: Path relative to the working directory, or name of a shipped file; YAML text and URLs stay unchanged.

    Raises:
        UsageError: If a file does not exist, builds on itself, or ``base`` is not a list of names.
    """
    if '\n' in config or config.lstrip().startswith('{') or '://' in config:
        return [*map(str, _bases_of(config, Path(), ())), config]
    return [*map(str, _with_bases(find_config(config, Path()), ()))]


def _with_bases(path: Path, users: tuple[Path, ...]) -> Iterator[Path]:
    """Yields the bases of a file and the file itself; ``users`` are the files that build on it."""
    if path in users:
        raise UsageError(f'base: {" -> ".join(str(file) for file in (*users, path))}: a file cannot build on itself.')
    yield from _bases_of(path.read_text(), path, (*users, path))
    yield path


def _bases_of(text: str, path: Path, users: tuple[Path, ...]) -> Iterator[Path]:
    if not (block := BASE_BLOCK.search(text)):
        return
    names = yaml.safe_load(block[0])['base']
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f'base: {path}: expected a list of files like [data/coco.yaml, methods/clip.yaml].')
    for name in names:
        yield from _with_bases(find_config(name, path.parent), users)


def run_name(files: Iterable[Path]) -> str:
    """The name of a run whose files set none: method and data set, as in ``safeclip_coco``."""
    files = list(files)
    stems = [[file.stem for file in files if file.parent.name == folder] for folder in RUN_NAME_FOLDERS]
    return '_'.join(named[-1] for named in stems if named) or DEFAULT_RUN_NAME
