"""Explains the classes that settings can name, from their source: ``clipward fit --data.attacks.help BadNet``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from datamodules.usage_error import UsageError
from experiments.near_names import find_similar
from experiments.option_check import classes_at, classes_of_project, is_mapping
from experiments.subcommands import options_with_values

WIDTH = 100
_ARGUMENT = re.compile(r'^ {4}\**(\w+): (.*(?:\n(?: {5,}.*|(?=\n)))*)', re.MULTILINE)
_ROLE = re.compile(r':\w+:`~?([^`]+)`|``([^`]+)``')


def answer_help(arguments: Sequence[str]) -> None:
    """Prints what an option such as ``--data.attacks.help BadNet`` asks for, if this project has the class.

    Without a class, all that fit there are listed; the parser answers for classes of other packages.

    Raises:
        SystemExit: After an answer.
        UsageError: If no class of that name fits there.
    """
    for option, value in options_with_values(arguments):
        place, name = option.removesuffix('.help'), '' if value.startswith('-') else value.rpartition('.')[2]
        if place == option or not (fitting := classes_at(place)):
            continue
        if name in fitting or (not name and len(fitting) == 1):
            print(describe_class(name or fitting[0], f'{place}.NAME' if is_mapping(place) else place))
        elif not name:
            print(list_classes(fitting, option))
        elif '.' in value:  # of another package
            continue
        else:
            raise UsageError(
                f'{place}: {name} is not the name of a class that fits there: {find_similar(name, fitting)}'
            )
        raise SystemExit(0)


def describe_class(name: str, place: str) -> str:
    """What a class is for, and each of its arguments as an option.

    Args:
        name: Name of the class.
        place: Dotted name of the setting that takes the class.
    """
    index = classes_of_project()
    description = _plain(index[name].docstring.partition('\nArgs:')[0].strip())
    paragraphs = [f'--{place}={name}', '', *_paragraphs(description)]
    for argument, text in arguments_of(name).items():
        source = next(index[owner] for owner in index.lineage(name) if argument in (index[owner].parameters or {}))
        annotation = (source.parameters or {})[argument].strip('\'"')
        default = f'default: {_as_yaml(source.defaults[argument])}' if argument in source.defaults else 'required'
        paragraphs += ['', _indented(f'--{place}.{argument} ({annotation}, {default})', 2), _indented(text, 6)]
    return '\n'.join(paragraphs)


def list_classes(names: Sequence[str], option: str) -> str:
    """The classes that fit somewhere, with a line on each.

    Args:
        names: Names of the classes.
        option: Option that explains one of them.
    """
    index = classes_of_project()
    concrete = sorted(name for name in names if not index[name].is_abstract)
    width = max(map(len, concrete)) + 2
    lines = [f'  {name:<{width}}{_plain(index[name].docstring.partition(chr(10))[0])}' for name in concrete]
    return '\n'.join([*lines, '', f'What one of them takes: --{option} {concrete[0]}'])


def arguments_of(name: str) -> dict[str, str]:
    """Texts on the arguments of a class by name, its own before those that it passes on."""
    index = classes_of_project()
    taken = [argument for owner in index.lineage(name) for argument in index[owner].parameters or {}]
    texts: dict[str, str] = {}
    for owner in reversed(index.lineage(name)):
        texts |= dict(_documented(index[owner].docstring))
    return {argument: texts.get(argument, '') for argument in taken}


def _documented(docstring: str) -> Iterator[tuple[str, str]]:
    """Arguments in a docstring's section of arguments, with their texts."""
    section = re.split(r'\n(?=\S)', docstring.partition('\nArgs:\n')[2])[0]
    for argument, text in _ARGUMENT.findall(section):
        yield argument, _plain(' '.join(text.split()))


def _as_yaml(value: str) -> str:
    return {'None': 'null', 'True': 'true', 'False': 'false'}.get(value, value)


def _plain(text: str) -> str:
    """Text without the marks of a markup language."""
    return _ROLE.sub(lambda match: match[1] or match[2], text)


def _paragraphs(text: str) -> list[str]:
    return [textwrap.fill(' '.join(part.split()), WIDTH) if '::' not in part else part for part in text.split('\n\n')]


def _indented(text: str, by: int) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=' ' * by, subsequent_indent=' ' * (by + 2 * (by == 2)))
