"""What a method of a grid is trained on: the options of the filter that reads the ledgers of other methods."""

from __future__ import annotations

import json
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from datamodules.rows.filters import Filter, LedgerFilter
from datamodules.usage_error import UsageError
from experiments.parser_message import parser_message

OPTION = '--data.filters.ledger'


def filter_options(keep: Any, ledgers: Sequence[str], where: str) -> tuple[str, ...]:
    """Options that make a filter, without its file, which is known when the ledgers are written.

    The filter is constructed once, since its settings would otherwise be refused hours later.

    Args:
        keep: Arguments of :class:`LedgerFilter`, or ``class_path`` and ``init_args`` of any filter that reads a
            ``file``.
        ledgers: Methods whose ledgers it reads.
        where: Name of ``keep`` in the grid file.

    Raises:
        UsageError: If this is no filter, or its settings cannot be.
    """
    name, arguments = _parts(keep, where)
    _check(name, {**arguments, 'file': ledgers[0] if len(ledgers) == 1 else [*ledgers]}, where)
    return (f'{OPTION}={name}', *(f'{OPTION}.{argument}={_text(value)}' for argument, value in arguments.items()))


def _parts(keep: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Name of the filter, and its arguments."""
    of_another = isinstance(keep, dict) and 'class_path' in keep
    arguments = (keep.get('init_args') or {}) if of_another else keep
    if not isinstance(arguments, dict) or (of_another and keep.keys() - {'class_path', 'init_args'}):
        raise UsageError(
            f'{where} must hold arguments of LedgerFilter, as in {{max_p: 0.1}}, or class_path and init_args of '
            f'another filter; got {keep!r}.'
        )
    if 'file' in arguments:
        raise UsageError(f'{where}: file is that of the ledger: leave it out.')
    return str(keep['class_path']) if of_another else LedgerFilter.__name__, arguments


def _check(name: str, arguments: dict[str, Any], where: str) -> None:
    try:
        if name != LedgerFilter.__name__ or not _fits(arguments):
            _construct(name, arguments)
    except ArgumentError as error:
        raise UsageError(where.removesuffix('keep') + parser_message(str(error))) from error
    except UsageError as error:
        raise UsageError(f'{where}: {error}') from error


def _fits(arguments: dict[str, Any]) -> bool:
    """Whether arguments of :class:`LedgerFilter` have its names and types; the parser says what is wrong if not."""
    try:
        LedgerFilter(**arguments)
    except TypeError:
        return False
    return True


def _construct(name: str, arguments: dict[str, Any]) -> None:
    from experiments.command_line import import_modules  # takes seconds
    from experiments.parser import Parser

    import_modules()
    parser = Parser(exit_on_error=False)
    parser.add_argument('--keep', type=Filter)
    parser.instantiate(parser.parse_object({'keep': {'class_path': name, 'init_args': arguments}}))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
