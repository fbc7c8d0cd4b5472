"""Finds YAML files of options, and the files that they build on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import yaml

from datamodules.usage_error import UsageError
from experiments.config_text import read_mapping

SHIPPED = Path(__file__).parent
RUN_NAME_FOLDERS = ('methods', 'data')  # the names of files in these folders make up a run's name, in this order
NO_CONFIGS = ('grids', 'sweeps', 'report_page')  # folders of files for other commands
DEFAULT_RUN_NAME = 'run'


def find_config(name: str, *folders: Path) -> Path:
    """Returns the path of a YAML file.

    Args:
        name: Path, absolute or relative to one of the folders or to the folder of shipped files.
        folders: Folders to search before that of the shipped files, in this order.

    Raises:
        UsageError: If there is no such file; the message lists shipped files with similar names.
    """
    if not name or name.startswith('--'):
        raise UsageError('config: give a file, as in --config safeclip_pairs.yaml.')
    for folder in (*folders, SHIPPED):
        if (path := folder / name).is_file():
            return path.absolute()
    if any((folder / name).is_dir() for folder in (*folders, SHIPPED)):
        raise UsageError(f'config: {name} is a folder: name a YAML file in it.')
    similar = _similar_names(name)
    hint = f'did you mean {", ".join(similar)}?' if similar else 'give its path, or the name of a shipped file.'
    raise UsageError(f'config: File does not exist: {name}; {hint}')


def _similar_names(name: str) -> list[str]:
    shipped = sorted(path for path in SHIPPED.rglob('*.yaml') if path.parent.name not in NO_CONFIGS)
    stems = {path.stem for path in shipped}
    close = [Path(name).stem] if Path(name).stem in stems else get_close_matches(Path(name).stem, stems)
    return [path.relative_to(SHIPPED).as_posix() for stem in close for path in shipped if path.stem == stem]


def without_base(text: str) -> str:
    """Removes the key ``base``, which the parser does not know, from the text of a file."""
    root = read_mapping(text, 'the text')
    if root is None:
        return '{}'
    if (entry := _base_entry(root)) is None:
        return text
    if entry.is_alone:
        return '{}'
    return text[: entry.start] + re.sub(r'^\s*,', '', text[entry.end :])


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
    if is_text(config):
        return [*map(str, _bases_of(config, 'the given text', Path(), ())), config]
    return [config] if '://' in config else [*map(str, _with_bases(find_config(config, Path()), ()))]


def is_text(config: str) -> bool:
    """Whether the value of ``--config`` is YAML itself rather than the name of a file."""
    return '\n' in config or config.lstrip().startswith('{')


def read_config(path: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        return path.read_text('utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f'config: {path} cannot be read as a text file ({error}).') from error


def _with_bases(path: Path, users: tuple[Path, ...]) -> Iterator[Path]:
    """Yields the bases of a file and the file itself; ``users`` are the resolved paths of files that build on it."""
    chain = (*users, path.resolve())
    if chain[-1] in users:
        raise UsageError(f'base: {" -> ".join(map(str, chain))}: a file cannot build on itself.')
    yield from _bases_of(read_config(path), str(path), path.parent, chain)
    yield path


def _bases_of(text: str, file: str, folder: Path, users: tuple[Path, ...]) -> Iterator[Path]:
    if (entry := _base_entry(read_mapping(text, file))) is None:
        return
    if entry.names is None:
        raise UsageError(f'base: {file}: expected a list of files like [data/coco.yaml, methods/clip.yaml].')
    for name in entry.names:
        yield from _with_bases(find_config(name, folder), users)


class _BaseEntry(NamedTuple):
    """The key ``base`` of a file: the files it lists, if it is a list of names, and where in the text it stands."""

    names: list[str] | None
    start: int
    end: int
    is_alone: bool


def _base_entry(root: yaml.MappingNode | None) -> _BaseEntry | None:
    """Finds the top-level key ``base``."""
    entries = root.value if root else []
    for key, value in entries:
        if key.value == 'base':
            return _BaseEntry(_names_in(value), key.start_mark.index, value.end_mark.index, len(entries) == 1)
    return None


def _names_in(node: yaml.Node) -> list[str] | None:
    if isinstance(node, yaml.SequenceNode) and all(item.tag == 'tag:yaml.org,2002:str' for item in node.value):
        return [item.value for item in node.value]
    return None


def run_name(files: Iterable[Path]) -> str:
    """The name of a run whose files set none: method and data set, as in ``safeclip_coco``."""
    files = list(files)
    stems = [[file.stem for file in files if file.parent.name == folder] for folder in RUN_NAME_FOLDERS]
    return '_'.join(named[-1] for named in stems if named) or DEFAULT_RUN_NAME
