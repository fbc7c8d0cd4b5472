"""Finds misspelled options before anything slow is imported.

The parser decides what is valid. This check refuses only what the parser would certainly refuse, and accepts whatever
it cannot judge, such as the arguments of a class from another package.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from datamodules.usage_error import UsageError
from experiments.config_files import is_text, read_config, with_bases
from experiments.config_text import line_of, read_mapping
from experiments.near_names import near_names
from experiments.signatures import ClassIndex, function_parameters, method_parameters, union
from experiments.subcommands import (
    DATA_ARGUMENTS,
    FILLED_IN,
    NEED_WEIGHTS,
    SLOTS,
    SUBCOMMANDS,
    TOOLS,
    config_values,
    options_with_values,
    tool_definition,
)

ROOT = Path(__file__).parents[1]
GROUPS = {'model': ('lightning_modules', 'CLIP'), 'data': ('datamodules', 'PairsDataModule')}  # package, base class
EVERYWHERE = {'help', 'config', 'print_config', 'seed_everything', 'name', 'trainer', 'callbacks', 'traceback', *GROUPS}
FLAGS = {'--help', '--print_config', '--traceback'}  # options without a value
OF_A_CLASS = {'class_path', 'init_args', 'dict_kwargs', 'help'}  # may follow an option that takes an object
_HOLDS_SETTINGS = re.compile(r'trainer|callbacks|(.+\.)?(init_args|dict_kwargs)')  # keys with settings by name below
_CLASS_NAME = re.compile(r'(?:[A-Za-z_]\w*\.)*[A-Z]\w*')
_MAPPING = re.compile(r'\b(?:dict|Mapping)\[')
_WORD = re.compile(r'[A-Za-z_]\w*')


class Setting(NamedTuple):
    """A setting by its dotted name, and the file that sets it; an option of the command if that is empty."""

    name: str
    file: str = ''

    def __str__(self) -> str:
        return f'key {self.name} in {self.file}' if self.file else f'option --{self.name}'

    def like(self, name: str) -> str:
        """Another name, written in the same way."""
        return name if self.file else f'--{name}'


def check_options(subcommand: str, arguments: Sequence[str]) -> None:
    """Refuses a misspelled option, or key of a file.

    Args:
        subcommand: Name of the subcommand.
        arguments: All arguments of the command.

    Raises:
        UsageError: If an option, a key or a config file does not exist; the message suggests similar ones.
    """
    words = [argument[2:].partition('=')[0].rstrip('+') for argument in arguments if argument.startswith('--')]
    settings = [*map(Setting, filter(None, words)), *_settings_in_files(arguments)]
    for setting in settings:
        first, *rest = setting.name.split('.')
        _refuse_unknown(first, EVERYWHERE | _own_options(subcommand), setting, '')
        if first == 'trainer' and rest:
            _check_trainer(rest[0], setting)
        if first == 'callbacks' and rest:
            _refuse_unknown(rest[0], SLOTS, setting, 'callbacks.')
    _check_values(arguments)
    of_objects = [setting for setting in settings if setting.name.startswith(('model.', 'data.', 'callbacks.'))]
    if of_objects and _knows_all_classes(arguments):
        for setting in of_objects:
            _check_object(setting)


def _check_values(arguments: Sequence[str]) -> None:
    """Refuses an option without a value."""
    for option, following in zip(arguments, [*arguments, ''][1:], strict=True):
        if not option.startswith('--') or '=' in option or option in FLAGS or option.endswith('.help'):
            continue
        if (not following or following.startswith('--')) and option != '--config':  # which has a sentence of its own
            raise UsageError(f'{option} needs a value, as in {option}=VALUE.')


def _refuse_unknown(word: str, known: Collection[str], setting: Setting, prefix: str) -> None:
    """Refuses a setting whose part after ``prefix`` is not among the known ones."""
    if word in known:
        return
    if setting.file and word in SUBCOMMANDS:
        raise UsageError(
            f'config: {setting.file} has a section {word}: name a file with sections before the subcommand, as in '
            f'clipward -c FILE {word}.'
        )
    if owner := next((name for name in SUBCOMMANDS if not prefix and word in _own_options(name)), ''):
        raise UsageError(f'unrecognized {setting}: only {owner} has it.')
    similar = [prefix + name for name in near_names(word, known, 1)] or ([] if prefix else _homes_of(word))
    hint = ' or '.join(map(setting.like, similar))
    raise UsageError(f'unrecognized {setting}' + (f': did you mean {hint}?' if hint else '.'))


def _homes_of(word: str) -> list[str]:
    """Full names of an argument that was given without the part that takes it, as in ``--max_epochs``."""
    of_trainer = method_parameters(_lightning_folder() / 'pytorch/trainer/trainer.py', 'Trainer', '__init__')
    groups = {'trainer': of_trainer, **{group: _parameters_of_any(_base_classes(group)) for group in GROUPS}}
    return [f'{group}.{word}' for group, parameters in groups.items() if word in (parameters or {})]


@cache
def _own_options(subcommand: str) -> set[str]:
    """Options that this subcommand has in addition to those that all have."""
    if subcommand in TOOLS:
        return set(function_parameters(tool_definition(subcommand))) - FILLED_IN
    parameters = method_parameters(_lightning_folder() / 'pytorch/trainer/trainer.py', 'Trainer', subcommand) or {}
    return set(parameters) - DATA_ARGUMENTS | ({'allow_untrained'} if subcommand in NEED_WEIGHTS else set())


def _check_trainer(word: str, setting: Setting) -> None:
    parameters = method_parameters(_lightning_folder() / 'pytorch/trainer/trainer.py', 'Trainer', '__init__')
    if parameters is not None:
        _refuse_unknown(word, parameters, setting, 'trainer.')


@cache
def _lightning_folder() -> Path:
    """Folder of Lightning, found without importing it."""
    spec = find_spec('lightning')
    return Path(str(spec.origin)).parent if spec else Path()


@cache
def classes_of_project() -> ClassIndex:
    """Every class that a setting of this project may name, and Lightning's checkpoint callback."""
    packages = [ROOT / package for package in ('lightning_modules', 'datamodules', 'callbacks')]
    return ClassIndex.of([_lightning_folder() / 'pytorch/callbacks/model_checkpoint.py', *packages])


def _check_object(setting: Setting) -> None:
    """Checks each part of a name like ``data.attacks.badnet.rate`` against the classes that may stand there."""
    for prefix, part, parameters in _arguments_along(setting.name):
        _refuse_unknown(part, parameters, setting, prefix)


def classes_at(name: str) -> tuple[str, ...]:
    """Classes that the object of a dotted name, such as ``data.attacks.badnet``, may have; none if that is unknown."""
    group = 2 if name.startswith('callbacks.') else 1
    if name.count('.') < group:
        return _base_classes(name)
    annotation = ''
    for prefix, part, parameters in _arguments_along(name):
        if prefix + part in (name, name.rpartition('.')[0]):
            annotation = parameters.get(part, '')
    return _families(*_WORD.findall(annotation))


def is_mapping(name: str) -> bool:
    """Whether a dotted name, such as ``data.attacks``, is that of a mapping of objects."""
    last = [parameters.get(part, '') for prefix, part, parameters in _arguments_along(name) if prefix + part == name]
    return bool(last and _MAPPING.search(last[0]))


def _base_classes(name: str) -> tuple[str, ...]:
    slot = name.removeprefix('callbacks.')
    base = SLOTS.get(slot, '').rpartition('.')[2] if slot != name else GROUPS.get(name, ('', ''))[1]
    return _families(base)


def _arguments_along(name: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Each part of a dotted name that is an argument, with what stands before it, and all arguments it may be."""
    parts = name.split('.')
    depth = 2 if parts[0] == 'callbacks' else 1
    candidates = _base_classes('.'.join(parts[:depth]))  # empty if the base class is from another package
    while depth < len(parts) and candidates:
        part = parts[depth]
        depth += 1
        if part == 'init_args':
            continue
        parameters = _parameters_of_any(candidates)
        if parameters is None or part in OF_A_CLASS:
            return
        yield ''.join(f'{part}.' for part in parts[: depth - 1]), part, parameters
        annotation = parameters.get(part, '')
        depth += bool(_MAPPING.search(annotation))  # skip the key, which is up to the user
        candidates = _families(*_WORD.findall(annotation))


@cache
def _families(*names: str) -> tuple[str, ...]:
    """Some classes and all that derive from them; none for classes of another package."""
    return tuple(dict.fromkeys(subclass for name in names for subclass in classes_of_project().family(name)))


@cache
def _parameters_of_any(names: tuple[str, ...]) -> dict[str, str] | None:
    return union(classes_of_project().parameters(name) for name in names)


def _knows_all_classes(arguments: Sequence[str]) -> bool:
    """Whether every class named in an option or a file belongs to this project or to Lightning."""
    try:
        named = [*_classes_in_options(arguments), *_classes_in_files(arguments)]
    except (OSError, ValueError, yaml.YAMLError):  # the parser gives the better message
        return False
    ours = ('lightning_modules', 'datamodules', 'callbacks', 'lightning')
    return all(name.split('.')[0] in ours if '.' in name else name in classes_of_project() for name in named)


def _classes_in_options(arguments: Sequence[str]) -> Iterator[str]:
    for option, value in options_with_values(arguments):
        if option.startswith(('model', 'data', 'callbacks')):
            yield from _classes_in(yaml.safe_load(value), at_class=True)


def _classes_in_files(arguments: Sequence[str]) -> Iterator[str]:
    for _, text in _config_texts(arguments):
        content = yaml.safe_load(text)
        sections = [content.get(section) for section in ('model', 'data', 'callbacks')] if content else []
        yield from (name for section in sections for name in _classes_in(section, at_class=True))


def _settings_in_files(arguments: Sequence[str]) -> Iterator[Setting]:
    """Every key of the files, by its dotted name."""
    for file, text in _config_texts(arguments):
        yield from (Setting(name, file) for name in _names_in(read_mapping(text, file), file) if name != 'base')


def _names_in(node: yaml.Node | None, file: str, prefix: str = '') -> Iterator[str]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if '.' in key.value:  # a name that the user has chosen, as of a set
            continue
        name = f'{prefix}{key.value}'
        if _HOLDS_SETTINGS.fullmatch(name) and not isinstance(value, yaml.MappingNode):
            raise UsageError(
                f'config: {file}: line {line_of(key)}: {name} takes settings by name, such as {name}: {{...}}; without '
                f'any, leave it out.'
            )
        if key.value == 'class_path' and value.tag != 'tag:yaml.org,2002:str':
            raise UsageError(f'config: {file}: line {line_of(key)}: {name} must be the name of a class.')
        yield name
        if key.value != 'dict_kwargs':
            yield from _names_in(value, file, f'{name}.')


def _config_texts(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and texts of all config files of a command, those that they build on included; URLs are left out."""
    for config in [file for given in config_values(arguments) for file in with_bases(given)]:
        if is_text(config):
            yield 'the given text', config
        elif '://' not in config:
            yield config, read_config(Path(config))


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
