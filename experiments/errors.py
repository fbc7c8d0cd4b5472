"""Reports a user's mistake in one sentence, and a bug in full."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from datamodules.files.quoting import spell_out
from datamodules.usage_error import UsageError
from experiments.parser_message import missing_package
from experiments.subcommands import SUBCOMMANDS

USAGE_ERROR = 2  # exit status of a command that was called wrongly, as in argparse
DISTRUST = 3  # exit status of a run that ended because its split could not be trusted
LOST = 4  # exit status of a process that ended because another one of its run had


def fail(message: str, status: int = USAGE_ERROR) -> NoReturn:
    """Ends the command with one sentence."""
    sys.stderr.write(f'error: {spell_out(message)}\n')  # messages of libraries may show the data
    raise SystemExit(status)


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
        if missing := missing_package(str(error)):
            return UsageError(missing)
        error = error.__cause__ or error.__context__
    return None


def _refuses_a_setting(error: BaseException) -> bool:
    """Whether Lightning or OmegaConf raised an error on purpose; imported here, for a UsageError needs neither.

    Loggers and other classes of Lightning say by a ModuleNotFoundError which package they need. Unlike that of an
    import, it has no name.
    """
    if isinstance(error, ModuleNotFoundError) and error.name is None:
        return True
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(error, MisconfigurationException | OmegaConfBaseException)


def message_of(error: BaseException) -> str:
    """The sentence that is printed for an error."""
    key = getattr(error, 'full_key', None)  # OmegaConf's errors have one
    if key is not None:
        first, _, rest = str(key).partition('.')
        return f'{rest if first in SUBCOMMANDS else key}: {_of_interpolation(error)}'
    text = str(error)
    if text.startswith('Caught '):  # in a loader worker, whose traceback torch puts before the message
        text = text.rpartition(f'{type(error).__name__}: ')[2]
    return ' '.join(text.split())


def _of_interpolation(error: BaseException) -> str:
    text = str(error).splitlines()[0]
    if type(error).__name__ == 'GrammarParseError':
        return 'an interpolation that cannot be read: write it as in ${trainer.max_epochs}.'
    return re.sub(r'KeyError raised while resolving interpolation: "(.+)"', r'\1.', text)
