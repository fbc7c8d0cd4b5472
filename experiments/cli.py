"""The command: ``clipward fit --config experiments/safeclip_cc3m.yaml``, also installed as ``lightning``.

Help and misspelled options are answered from source files alone. Only a command that goes further imports torch and
Lightning, with :mod:`experiments.command_line`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datamodules.usage_error import UsageError
from experiments.errors import short_errors
from experiments.option_check import check_options, find_similar
from experiments.quick_imports import only_describes, quick_imports
from experiments.subcommands import DESCRIPTION, SUBCOMMANDS, find_subcommand, summarize

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
    answer_quickly(arguments)
    from experiments.command_line import CommandLine, run

    return run(arguments, command_line or CommandLine)


def answer_quickly(arguments: Sequence[str]) -> None:
    """Prints the list of subcommands, or refuses a misspelled word, if that is all there is to do.

    Raises:
        SystemExit: After either.
    """
    subcommand = find_subcommand(arguments)
    before = arguments[: arguments.index(subcommand)] if subcommand else arguments
    if {'-h', '--help'} & set(before):
        _root_parser().print_help()
        raise SystemExit(0)
    with short_errors(arguments):
        if subcommand is None and not before:
            raise UsageError(f'which subcommand? {find_similar("", SUBCOMMANDS)}')
        if subcommand is not None and subcommand not in SUBCOMMANDS:
            raise UsageError(f'unrecognized subcommand {subcommand!r}: {find_similar(subcommand, SUBCOMMANDS)}')
        if subcommand is not None and not before:
            check_options(subcommand, arguments)


def _root_parser() -> argparse.ArgumentParser:
    """Lists the subcommands; the parsers that do the work are in :mod:`experiments.command_line`."""
    parser = argparse.ArgumentParser(prog='clipward', description=DESCRIPTION, allow_abbrev=False)
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
    """The console script; exits with 143 when terminated, where Lightning 2.6 would exit with 0."""
    find_classes_in(os.getcwd())
    arguments = sys.argv[1:]
    answer_quickly(arguments)
    with quick_imports(runs_nothing=only_describes(arguments)):
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        from experiments.command_line import run
    try:
        run(arguments)
    except SIGTERMException:
        raise SystemExit(143) from None


if __name__ == '__main__':
    command()
