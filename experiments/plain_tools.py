"""Runs the tools that need neither a model nor data, without Lightning's command line."""

from __future__ import annotations

import importlib
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from datamodules.usage_error import UsageError
from experiments.parser_message import parser_message
from experiments.subcommands import summarize


def run_plain_tool(arguments: Sequence[str]) -> None:
    """Runs a function of ``experiments.tools`` with the options of a command.

    Args:
        arguments: Arguments of the command, the subcommand first.

    Raises:
        UsageError: If an option has a wrong value or is not one of the tool.
    """
    name, *options = (argument for argument in arguments if argument != '--traceback')
    tool = getattr(importlib.import_module(f'experiments.tools.{name}'), name)
    parser = ArgumentParser(prog=f'clipward {name}', description=summarize(name), exit_on_error=False)
    parser.add_function_arguments(tool)
    try:
        values = parser.parse_args(options)
    except ArgumentError as error:
        raise UsageError(parser_message(str(error))) from error
    tool(**vars(values))
