"""Reports a user's mistake in one sentence, and a bug in full."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from datamodules.usage_error import UsageError

USAGE_ERROR = 2  # exit status of a command that was called wrongly, as in argparse


def fail(message: str) -> NoReturn:
    """Ends the command with one sentence."""
    sys.stderr.write(f'error: {message}\n')
    raise SystemExit(USAGE_ERROR)


@contextmanager
def short_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Ends the command with one sentence after a user's mistake; any other error passes.

    Args:
        arguments: Arguments of the command. With ``--traceback`` among them, or ``CLIPWARD_TRACEBACK=1`` in the
            environment, mistakes pass too, with their traceback.
    """
    show = '--traceback' in arguments or os.environ.get('CLIPWARD_TRACEBACK', '0') not in ('', '0')
    try:
        yield
    except Exception as error:
        mistake = users_mistake(error)
        if show or mistake is None:
            raise
        fail(message_of(mistake))


def users_mistake(error: BaseException | None) -> BaseException | None:
    """The error that tells the user what to change; ``None`` for a bug.

    Such an error is a :class:`UsageError`, or what Lightning and OmegaConf raise for a setting. jsonargparse wraps
    what a constructor raises, so the causes of an error are searched too.
    """
    while error is not None:
        if isinstance(error, UsageError) or _refuses_a_setting(error):
            return error
        error = error.__cause__ or error.__context__
    return None


def _refuses_a_setting(error: BaseException) -> bool:
    """Whether Lightning or OmegaConf raised an error on purpose; imported here, for a UsageError needs neither."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(error, MisconfigurationException | OmegaConfBaseException)


def message_of(error: BaseException) -> str:
    """The sentence that is printed for an error."""
    key = getattr(error, 'full_key', None)  # OmegaConf's errors have one
    if key is not None:
        key = '.'.join(str(key).split('.')[1:])  # without the subcommand
        return f'{key}: {str(error).splitlines()[0]}'
    return ' '.join(str(error).split())


def parser_message(message: str) -> str:
    """Shortens a report of jsonargparse, which lists every type that was tried.

    Args:
        message: Report with an indented block for each type, the innermost one last.

    Returns:
        The key, what is wrong with its value, and the value.
    """
    keys = '.'.join(re.findall(r'Parser key "([^"]+)"', message))
    owners = re.findall(r"given class_path '(?:\w+\.)*(\w+)'", message)
    if option := re.search(r"Option '.+' is not accepted", message):
        return f'{keys}: {option[0]}{f" by {owners[-1]}" if owners else ""}.'
    if missing := re.search(r"class_path '(?:\w+\.)*(\w+)':\s+the following arguments are required: (.+)", message):
        return f'{keys}: {missing[1]} needs {missing[2]}.'
    argument = re.search(r"NestedArg\(key='([^']+)'", message)
    if argument and re.search(r' is abstract|Unexpected import path format', message):
        owner, _, name = argument[1].removeprefix('init_args.').rpartition('.')
        key = f'{keys}.{owner}' if owner else keys
        return f'{key}: {name} is an argument of no class yet: name the class first, as in --{key}=CLASS.'
    if absent := re.search(r"Key .+ is required.*|No module named .+|module '.+' has no .+", message):
        return f'{keys}: {absent[0]}.'
    if name := re.search(r'(?:dot import path string: |to a subclass of [\s\S]+Given value: )(\S+)', message):
        return f'{keys}: {name[1]} is not the name of a class that fits there.'
    if misfit := re.search(r'Not a valid subclass of (\w+)\. Got value: (.+)', message):
        return f'{keys}: expected the name of a class of {misfit[1]}, got {misfit[2]}.'
    expected = [_plain(kind) for kind in re.findall(r'Expected (?!a path|a <class .NoneType)(.+)', message)]
    given = re.search(r'(?:Got|Given) value: (.+)', message)
    if expected and given:
        return f'{keys}: expected {" or ".join(dict.fromkeys(expected))}, got {given[1]}.'
    return ' '.join(re.sub(r'Parser key "([^"]+)":', r'\1:', message).split())


def _plain(expectation: str) -> str:
    """``a <class 'int'>. Got value: x`` as a person would write it."""
    return re.sub(r"an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.(.+))", r'\1\2', expectation.split('. Got value')[0])
