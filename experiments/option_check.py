"""Finds misspelled options before anything slow is imported.

The parser decides what is valid. This check refuses only what the parser would certainly refuse, and accepts whatever
it cannot judge, such as the arguments of a class from another package.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from datamodules.usage_error import UsageError
from experiments.config_files import with_bases
from experiments.signatures import ClassIndex, function_parameters, method_parameters, union
from experiments.subcommands import DATA_ARGUMENTS, FILLED_IN, NEED_WEIGHTS, SLOTS, TOOLS, tool_definition

ROOT = Path(__file__).parents[1]
GROUPS = {'model': ('lightning_modules', 'CLIP'), 'data': ('datamodules', 'PairsDataModule')}  # package, base class
EVERYWHERE = {'help', 'config', 'print_config', 'seed_everything', 'name', 'trainer', 'callbacks', 'traceback', *GROUPS}
OF_A_CLASS = {'class_path', 'init_args', 'dict_kwargs', 'help'}  # may follow an option that takes an object
_CLASS_NAME = re.compile(r'(?:[A-Za-z_]\w*\.)*[A-Z]\w*')
_MAPPING = re.compile(r'\b(?:dict|Mapping)\[')
_WORD = re.compile(r'[A-Za-z_]\w*')


def check_options(subcommand: str, arguments: Sequence[str]) -> None:
    """Refuses a misspelled option.

    Args:
        subcommand: Name of the subcommand.
        arguments: All arguments of the command.

    Raises:
        UsageError: If an option or a config file does not exist; the message suggests similar ones.
    """
    options = [argument[2:].partition('=')[0].rstrip('+') for argument in arguments if argument.startswith('--')]
    for option in filter(None, options):
        first, *rest = option.split('.')
        _refuse_unknown(first, EVERYWHERE | _own_options(subcommand), option, '')
        if first == 'trainer' and rest:
            _check_trainer(rest[0], option)
        if first == 'callbacks' and rest:
            _refuse_unknown(rest[0], SLOTS, option, 'callbacks.')
    _config_files(arguments)  # raises if one is missing
    object_options = [option for option in options if option.startswith(('model.', 'data.', 'callbacks.'))]
    if object_options and _knows_all_classes(arguments):
        for option in object_options:
            _check_object(option)


def _refuse_unknown(word: str, known: Collection[str], option: str, prefix: str) -> None:
    """Refuses an option whose part after ``prefix`` is not among the known ones."""
    if word in known:
        return
    similar = get_close_matches(word, known, 1)
    hint = ' or '.join(f'--{prefix}{name}' for name in similar)
    raise UsageError(f'unrecognized option --{option}' + (f': did you mean {hint}?' if hint else '.'))


def _own_options(subcommand: str) -> set[str]:
    """Options that this subcommand has in addition to those that all have."""
    if subcommand in TOOLS:
        return set(function_parameters(tool_definition(subcommand))) - FILLED_IN
    parameters = method_parameters(_lightning_folder() / 'pytorch/trainer/trainer.py', 'Trainer', subcommand) or {}
    return set(parameters) - DATA_ARGUMENTS | ({'allow_untrained'} if subcommand in NEED_WEIGHTS else set())


def _check_trainer(word: str, option: str) -> None:
    parameters = method_parameters(_lightning_folder() / 'pytorch/trainer/trainer.py', 'Trainer', '__init__')
    if parameters is not None:
        _refuse_unknown(word, parameters, option, 'trainer.')


@cache
def _lightning_folder() -> Path:
    """Folder of Lightning, found without importing it."""
    spec = find_spec('lightning')
    return Path(str(spec.origin)).parent if spec else Path()


@cache
def _classes() -> ClassIndex:
    packages = [ROOT / package for package in ('lightning_modules', 'datamodules', 'callbacks')]
    return ClassIndex.of([_lightning_folder() / 'pytorch/callbacks/model_checkpoint.py', *packages])


def _check_object(option: str) -> None:
    """Checks each part of an option like ``data.attacks.badnet.rate`` against the classes that may stand there."""
    parts = option.split('.')
    depth = 2 if parts[0] == 'callbacks' else 1
    base = SLOTS[parts[1]].rpartition('.')[2] if depth == 2 else GROUPS[parts[0]][1]
    candidates = _classes().family(base)  # empty if the base class is from another package
    while depth < len(parts) and candidates:
        part = parts[depth]
        depth += 1
        if part == 'init_args':
            continue
        parameters = union(_classes().parameters(name) for name in candidates)
        if parameters is None or part in OF_A_CLASS:
            return
        _refuse_unknown(part, parameters, option, ''.join(f'{part}.' for part in parts[: depth - 1]))
        depth += bool(_MAPPING.search(parameters[part]))  # skip the key, which is up to the user
        names = [name for name in _WORD.findall(parameters[part]) if name in _classes()]
        candidates = [subclass for name in names for subclass in _classes().family(name)]


def _knows_all_classes(arguments: Sequence[str]) -> bool:
    """Whether every class named in an option or a file belongs to this project or to Lightning."""
    try:
        named = [*_classes_in_options(arguments), *_classes_in_files(arguments)]
    except (OSError, ValueError, yaml.YAMLError):  # the parser gives the better message
        return False
    ours = ('lightning_modules', 'datamodules', 'callbacks', 'lightning')
    return all(name.split('.')[0] in ours if '.' in name else name in _classes() for name in named)


def _classes_in_options(arguments: Sequence[str]) -> Iterator[str]:
    for option, value in _options_with_values(arguments):
        if option.startswith(('model', 'data', 'callbacks')):
            yield from _classes_in(yaml.safe_load(value), at_class=True)


def _options_with_values(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, given after ``=`` or as the next argument."""
    for argument, following in zip(arguments, [*arguments[1:], ''], strict=True):
        option, equals, value = argument.removeprefix('--').partition('=')
        if argument.startswith('-'):
            yield option.removeprefix('-'), value if equals else following


def _classes_in_files(arguments: Sequence[str]) -> Iterator[str]:
    for config in _config_files(arguments):
        is_text = '\n' in config or config.lstrip().startswith('{')
        content = yaml.safe_load(config if is_text else Path(config).read_text())
        if isinstance(content, dict):
            sections = [content.get(section) for section in ('model', 'data', 'callbacks')]
            yield from (name for section in sections for name in _classes_in(section, at_class=True))


def _config_files(arguments: Sequence[str]) -> list[str]:
    """All config files of a command, with the files that they build on; YAML text is passed through."""
    given = [value for option, value in _options_with_values(arguments) if option in ('config', 'c')]
    return [file for config in given for file in with_bases(config)]


def _classes_in(value: Any, at_class: bool = False) -> Iterator[str]:
    """Class names in part of a configuration: every ``class_path``, and other strings that look like one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _classes_in(inner, at_class=key == 'class_path')
    elif isinstance(value, list):
        for inner in value:
            yield from _classes_in(inner)
    elif isinstance(value, str) and _CLASS_NAME.fullmatch(value) and (at_class or '.' in value):
        yield value


def find_similar(word: str, known: Iterable[str]) -> str:
    """The hint ``did you mean ...?``, or all choices if none is similar."""
    names = list(known)
    similar = get_close_matches(word, names, 2)
    return f'did you mean {" or ".join(similar)}?' if similar else f'choose from {", ".join(names)}.'
