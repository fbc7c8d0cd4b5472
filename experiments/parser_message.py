"""Shortens the reports of jsonargparse, which list every type that was tried, to one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pydoc import locate

import yaml

from experiments.near_names import near_names

_KEY = re.compile(r'Parser key "([^"]+)"')
_NESTED = re.compile(r"NestedArg\(key='([^']+)', val=(?:'|\")(.*)(?:'|\")\)")  # an option below that of a class


_MISSING = re.compile(  # in a report on a class whose constructor says what must be installed
    r"""class_path '(?:\w+\.)*(\w+)':\s+.*(?:pip install (?:-U )?|No module named )['"`]*([\w-]+)"""
)


def missing_package(report: str) -> str:
    """A sentence on the package that a class of a report needs; empty if none is missing."""
    missing = _MISSING.search(report)
    return f'{missing[1]} needs the package {missing[2]}: pip install {missing[2]}.' if missing else ''


def parser_message(report: str) -> str:
    """The setting that a report is about, what is wrong with its value, and the value.

    Args:
        report: Report with an indented block for each type, the innermost one last.
    """
    if missing := missing_package(report) or _of_rich(report):
        return missing
    setting = _setting_in(report)
    for rule in (_of_name, _of_absence, _of_argument_without_class):
        if sentence := rule(report, setting):
            return sentence
    report = _NESTED.sub(r'\2', report)  # leaves the value as it was typed
    for rule in (_of_syntax, _of_import, _of_class, _of_value):
        if sentence := rule(report, setting):
            return sentence
    return ' '.join(re.sub(r'Parser key "([^"]+)":', r'\1:', report).split())


def _of_rich(report: str) -> str:
    """A callback of Lightning whose arguments have types that cannot be read without the package."""
    callback = re.search(r'RichProgressBar|RichModelSummary', report)
    return f'{callback[0]} needs the package rich: pip install rich.' if callback and find_spec('rich') is None else ''


def _of_name(report: str, _: str) -> str:
    """A name that nothing has."""
    keys = '.'.join(_KEY.findall(report))
    owners = re.findall(r"given class_path '(?:\w+\.)*(\w+)'", report)
    if added := re.search(r"Option '([\w.]+)\+.*' is not accepted", report):
        name = f'{keys}.{added[1]}'
        return f'{name}: += adds to a list, and this is none: set it with =, or one entry of a mapping with .NAME=.'
    if option := re.search(r"Option '.+' is not accepted", report):
        return f'{keys}: {option[0]}{f" by {owners[-1]}" if owners else ""}.'.removeprefix(': ')
    if stray := re.fullmatch(r'unrecognized arguments: ([^-].*)', report):
        return f'unrecognized argument {stray[1]}: options have the form --name=value, files --config FILE.'
    return ''


def _of_absence(report: str, _: str) -> str:
    """Something that must be given."""
    if missing := re.search(r"class_path '(?:\w+\.)*(\w+)':\s+the following arguments are required: (.+)", report):
        return f'{".".join(_KEY.findall(report))}: {missing[1]} needs {missing[2]}.'
    if missing := re.fullmatch(r'the following arguments are required: (.+)', report):
        names = [name.rpartition('.')[2] for name in missing[1].split(', ')]
        example = f'--config safeclip_pairs.yaml or --{names[0]}=VALUE'
        return f'{" and ".join(names)} must be given, in a file or as an option: {example}.'
    return ''


def _of_argument_without_class(report: str, setting: str) -> str:
    if not (_NESTED.search(report) and re.search(r' is abstract|Unexpected import path format', report)):
        return ''
    owner, _, name = setting.rpartition('.')
    return f'{owner}: {name} is an argument of no class yet: name the class first, as in --{owner}=CLASS.'


def _of_syntax(report: str, setting: str) -> str:
    """A value in brackets that do not match."""
    given = re.search(r'Given value: ([{\[].*)', report)
    problem = _syntax_error(given[1]) if given else ''
    return f'{setting}: {given[1]} cannot be read: {problem}.' if given and problem else ''


def _of_import(report: str, setting: str) -> str:
    absent = re.search(r"Key .+ is required.*|No module named .+|module '.+' has no .+", report)
    return f'{setting}: {absent[0]}.' if absent else ''


def _of_class(report: str, setting: str) -> str:
    """A value that is no class, or not one that fits."""
    if name := re.search(r'(?:dot import path string: |to a subclass of [\s\S]+Given value: )(\S+)', report):
        similar = near_names(name[1], [fitting for fitting in _fitting_names(report) if fitting != name[1]])
        hint = f': did you mean {" or ".join(similar)}?' if similar else '.'
        return f'{setting}: {name[1]} is not the name of a class that fits there{hint}'
    of_list = re.search(r'Not a valid subclass of (\w+)\. Got value: (.+)', report)
    if misfit := of_list or re.search(r'Not a valid subclass of (\w+)[\s\S]+Given value: (.+)', report):
        return f'{setting}: expected the name of a class of {misfit[1]}, got {misfit[2]}.'
    return ''


def _of_value(report: str, setting: str) -> str:
    """A value of another type."""
    expected = [_plain(kind) for kind in re.findall(r'Expected (?!a path|a <class .NoneType)(.+)', report)]
    given = re.search(r'(?:Got|Given) value: (.*)', report)
    if not expected or not given:
        return ''
    if setting == 'data.seed' and given[1] == 'False':  # taken from seed_everything unless it is given
        return 'seed_everything=false leaves the data without a seed: give a number, or set data.seed too.'
    return f'{setting}: expected {" or ".join(dict.fromkeys(expected))}, got {given[1] or "nothing"}.'


def _setting_in(report: str) -> str:
    """The dotted name of the setting that a report is about, as the user wrote it if it is an option."""
    keys, options = _KEY.findall(report), [key for key, _ in _NESTED.findall(report)]
    if not options:
        return '.'.join(keys)
    parts = options[-1].split('.')  # the outermost report, with the whole name, comes last
    return '.'.join([*keys[:1], *parts, *(key for key in keys[1:] if key not in parts)])


def _fitting_names(report: str) -> list[str]:
    """Names of the classes that fit where a report says that another word does not."""
    subtypes = re.findall(r'Subtypes: (.+)', report)
    bases = [locate(path) for path in re.findall(r'(?:\w+\.)+\w+', subtypes[-1])] if subtypes else []
    return [fitting.__name__ for base in bases if isinstance(base, type) for fitting in _family(base)]


def _family(base: type) -> Iterator[type]:
    yield base
    subclasses: list[type] = base.__subclasses__()
    for subclass in subclasses:
        yield from _family(subclass)


def _syntax_error(value: str) -> str:
    """What is wrong with a value as YAML; empty if nothing is."""
    try:
        yaml.safe_load(value)
    except yaml.YAMLError as error:
        return str(getattr(error, 'problem', error))
    return ''


def _plain(expectation: str) -> str:
    """``a <class 'int'>. Got value: x`` as a person would write it."""
    return re.sub(r"an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.(.+))", r'\1\2', expectation.split('. Got value')[0])
