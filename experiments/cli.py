"""The command: ``clipward fit --config experiments/safeclip_cc3m.yaml``, also installed as ``lightning``.

Help and misspelled options are answered from source files alone. Only a command that goes further imports torch and
Lightning, with :mod:`experiments.command_line`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from experiments.interrupts import end_with_reader, leave_at_once, quiet_signals

PROGRAMS = ('clipward', 'lightning', 'cli')  # what Python calls the command when it is run; anything else imports it
if Path(sys.argv[0]).stem in PROGRAMS:
    leave_at_once()

from datamodules.usage_error import UsageError  # noqa: E402
from experiments.class_help import answer_help  # noqa: E402
from experiments.errors import fail, short_errors  # noqa: E402
from experiments.near_names import find_similar, near_names  # noqa: E402
from experiments.option_check import check_options  # noqa: E402
from experiments.quick_imports import only_describes, quick_imports  # noqa: E402
from experiments.sections import move_sections  # noqa: E402
from experiments.settings_of_run import add_settings_of_run  # noqa: E402
from experiments.subcommands import DESCRIPTION, PLAIN_TOOLS, SUBCOMMANDS, find_subcommand, summarize  # noqa: E402
from experiments.versions import describe_versions  # noqa: E402

if TYPE_CHECKING:
    from experiments.command_line import CommandLine


def main(args: Sequence[str] | None = None, command_line: type[CommandLine] | None = None) -> CommandLine:
    """Runs one command.

    Args:
        args: What would follow the command's name in a shell; ``sys.argv[1:]`` if ``None``.
        command_line: A subclass that does less, or more.

    Returns:
        The command with its ``model``, ``datamodule`` and ``trainer``.

    Raises:
        SystemExit: With status 2 after a mistake in the configuration, described in one sentence. ``--traceback``,
            or ``CLIPWARD_TRACEBACK=1`` in the environment, shows where it was noticed instead.
    """
    arguments = sys.argv[1:] if args is None else list(args)
    arguments = answer_quickly(arguments)
    from experiments.command_line import CommandLine, run

    return run(arguments, command_line or CommandLine)


def answer_quickly(arguments: Sequence[str]) -> list[str]:
    """Prints help, refuses a misspelled word or runs a tool without a model, if that is all there is to do.

    Returns:
        Otherwise the arguments, with the subcommand first.

    Raises:
        SystemExit: After an answer.
    """
    subcommand = find_subcommand(arguments)
    before = arguments[: arguments.index(subcommand)] if subcommand else arguments
    if {'-h', '--help'} & set(before):
        _root_parser().print_help()
        raise SystemExit(0)
    if '--version' in before:
        print(describe_versions())
        raise SystemExit(0)
    with short_errors(arguments):
        if subcommand is None:
            _refuse_no_subcommand(before)
        if subcommand not in SUBCOMMANDS:
            raise UsageError(f'unrecognized subcommand {subcommand!r}: {find_similar(subcommand, SUBCOMMANDS)}')
        arguments = add_settings_of_run(move_sections(arguments, subcommand))
        answer_help(arguments)
        check_options(subcommand, arguments)
        if subcommand in PLAIN_TOOLS:
            from experiments.plain_tools import run_plain_tool

            run_plain_tool(arguments)
            raise SystemExit(0)
    return arguments


def _refuse_no_subcommand(options: Sequence[str]) -> NoReturn:
    known = [option for action in _root_parser()._actions for option in action.option_strings]
    for option in options:
        if option.startswith('-') and option.partition('=')[0] not in known:
            hint = ''.join(f': did you mean {name}?' for name in near_names(option.partition('=')[0], known, 1))
            raise UsageError(f'unrecognized option {option}{hint or "."}')
    raise UsageError(f'which subcommand? {find_similar("", SUBCOMMANDS)}')


def _root_parser() -> argparse.ArgumentParser:
    """Lists the subcommands; the parsers that do the work are in :mod:`experiments.command_line`."""
    parser = argparse.ArgumentParser(prog='clipward', description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument('--version', action='store_true', help='Print the versions of this command and what it uses.')
    parser.add_argument('-c', '--config', help='YAML file with a section of settings for each subcommand in it.')
    parser.add_argument('--print_config', action='store_true', help='Print the settings that would be used, and exit.')
    parser.add_argument('--traceback', action='store_true', help='Show the traceback of a mistake in the settings.')
    commands = parser.add_subparsers(title='subcommands', description='clipward SUBCOMMAND --help lists its options.')
    for name in SUBCOMMANDS:
        commands.add_parser(name, help=summarize(name))
    return parser


def find_classes_in(folder: str) -> None:
    """Lets options and files name the classes of a folder's modules, as ``my_filters.LongCaptions``.

    ``python -m`` does the same for the working folder, but before everything else: here it comes last, so that a
    module of the user's cannot stand in for one of ours.
    """
    if folder not in sys.path:
        sys.path.append(folder)


def command() -> None:
    """The console script; exits with 130 when interrupted, and with 143 when terminated."""
    if describes := only_describes(sys.argv[1:]):
        end_with_reader()
    try:
        find_classes_in(os.getcwd())
    except FileNotFoundError:
        fail('the current folder no longer exists: change to one that does.')
    arguments = answer_quickly(sys.argv[1:])
    with quick_imports(describes):
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        from experiments.command_line import run
    with quiet_signals(SIGTERMException):
        run(arguments)


if __name__ == '__main__':
    command()
