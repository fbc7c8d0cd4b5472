"""A user's mistake, told in one sentence; a bug, told in full."""

from __future__ import annotations

import re
import sys
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from datamodules.usage_error import UsageError

USAGE_ERROR = 2  # status of a command that was called wrongly, as argparse has it


def fail(message: str) -> NoReturn:
    """Ends the command with one sentence."""
    sys.stderr.write(f'error: {message}\n')
    raise SystemExit(USAGE_ERROR)


def users_mistake(error: BaseException | None) -> BaseException | None:
    """The error that says in one sentence what the user has to mend; ``None`` for a bug.

    Such an error is a :class:`UsageError`, or what Lightning and OmegaConf raise for a setting. jsonargparse wraps
    what a constructor raises, so the causes of an error are looked through too.
    """
    while error is not None:
        if isinstance(error, UsageError | MisconfigurationException | OmegaConfBaseException):
            return error
        error = error.__cause__ or error.__context__
    return None


def message_of(error: BaseException) -> str:
    """What to tell of an error."""
    if isinstance(error, OmegaConfBaseException):
        place = '.'.join(str(error.full_key or '').split('.')[1:])  # without the subcommand
        return f'{place}: {str(error).splitlines()[0]}'
    return ' '.join(str(error).split())


def parser_message(message: str) -> str:
    """The gist of jsonargparse's report, which lists every type that a value might have been and was not.

    Args:
        message: Report with an indented block for each type tried, the innermost one last.

    Returns:
        The key, what is wrong with its value, and the value.
    """
    keys = '.'.join(re.findall(r'Parser key "([^"]+)"', message))
    owners = re.findall(r"given class_path '(?:\w+\.)*(\w+)'", message)
    if option := re.search(r"Option '.+' is not accepted", message):
        return f'{keys}: {option[0]}{f" by {owners[-1]}" if owners else ""}.'
    if absent := re.search(r"Key .+ is required.*|No module named .+|module '.+' has no .+", message):
        return f'{keys}: {absent[0]}.'
    if name := re.search(r'(?:dot import path string: |to a subclass of [\s\S]+Given value: )(\S+)', message):
        return f'{keys}: {name[1]} is not the name of a class that fits there.'
    expected = [_plain(kind) for kind in re.findall(r'Expected (?!a path|a <class .NoneType)(.+)', message)]
    given = re.search(r'(?:Got|Given) value: (.+)', message)
    if expected and given:
        return f'{keys}: expected {" or ".join(dict.fromkeys(expected))}, got {given[1]}.'
    return ' '.join(re.sub(r'Parser key "([^"]+)":', r'\1:', message).split())


def _plain(expectation: str) -> str:
    """``a <class 'int'>. Got value: x`` as a person would name it."""
    return re.sub(r"an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.(.+))", r'\1\2', expectation.split('. Got value')[0])
