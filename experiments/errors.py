"""A user's mistake, told in one sentence; a bug, told in full."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import jsonargparse
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

import callbacks
import datamodules
import experiments
import lightning_modules

OUR_PACKAGES = (callbacks, datamodules, experiments, lightning_modules)
USAGE_ERROR = 2  # status of a command that was called wrongly, as argparse has it


def fail(message: str) -> NoReturn:
    """Ends the command with one sentence."""
    sys.stderr.write(f'error: {message}\n')
    raise SystemExit(USAGE_ERROR)


def users_mistake(error: BaseException) -> BaseException | None:
    """The error whose message says all there is to say, if that is so; ``None`` for a bug.

    That is a setting which a library refused as such, or a value which this project's own code refused. jsonargparse
    wraps what a constructor raises in a list of everything that the value is not either.
    """
    if isinstance(error, MisconfigurationException | OmegaConfBaseException) or _raised_in(error, OUR_PACKAGES):
        return error
    wrapped = error.__cause__ or error.__context__
    return users_mistake(wrapped) if wrapped and _raised_in(error, [jsonargparse]) else None


def _raised_in(error: BaseException, packages: Iterable[ModuleType]) -> bool:
    """Whether it is a ``ValueError`` raised by a line of these packages, not by something that the line called."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    folders = (Path(package.__path__[0]) for package in packages)
    return isinstance(error, ValueError) and any(last.is_relative_to(folder) for folder in folders)


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
