"""A user's mistake, told in one sentence; a bug, told in full."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

import callbacks
import datamodules
import experiments
import lightning_modules

USAGE_ERROR = 2  # status of a command that was called wrongly, as argparse has it


def fail(message: str) -> NoReturn:
    """Ends the command with one sentence."""
    sys.stderr.write(f'error: {message}\n')
    raise SystemExit(USAGE_ERROR)


def is_users_mistake(error: BaseException) -> bool:
    """Whether the message says all there is to say: a wrong setting, or something that our own code refused."""
    return isinstance(error, MisconfigurationException | OmegaConfBaseException) or raised_by_us(error)


def raised_by_us(error: BaseException) -> bool:
    """Whether it is a ``ValueError`` raised in this project, not in a library that one of its lines called."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = (Path(package.__path__[0]) for package in (callbacks, datamodules, experiments, lightning_modules))
    return isinstance(error, ValueError) and any(Path(frames[-1].filename).is_relative_to(folder) for folder in ours)


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
    if name := re.search(r'dot import path string: (\S+)', message):
        return f'{keys}: {name[1]} is not the name of a class that fits there.'
    expected = [_plain(kind) for kind in re.findall(r'Expected (?!a path|a <class .NoneType)(.+)', message)]
    given = re.search(r'(?:Got|Given) value: (.+)', message)
    if expected and given:
        return f'{keys}: expected {" or ".join(dict.fromkeys(expected))}, got {given[1]}.'
    return ' '.join(re.sub(r'Parser key "([^"]+)":', r'\1:', message).split())


def _plain(expectation: str) -> str:
    """``a <class 'int'>. Got value: x`` as a person would name it."""
    return re.sub(r"an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.(.+))", r'\1\2', expectation.split('. Got value')[0])
