"""DecisionsFilter: drops what a person has decided to drop on a page of ``clipward audit``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from datamodules.rows.filters import Filter
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError

FORMAT, VERSION = 'clipward.decisions', 1  # the page writes both
Decision = Literal['keep', 'drop', 'unsure']


class DecisionsFilter(Filter):
    """Drops the pairs that a person has marked for it on a page of ``clipward audit``, and keeps all others.

    Args:
        file: The file that was saved on the page.
        unsure: What becomes of the pairs that were marked as unsure, ``keep`` or ``drop``.
    """

    def __init__(self, file: str, unsure: Literal['keep', 'drop'] = 'keep') -> None:
        self.file, self.unsure = file, unsure

    def drop(self, table: PairTable) -> np.ndarray:
        decided = self._read(table)
        dropped = np.zeros(len(table), bool)
        dropped[decided['drop']] = True
        dropped[decided['unsure']] = self.unsure == 'drop'
        return dropped

    def _read(self, table: PairTable) -> dict[Decision, list[int]]:
        """Rows of each decision.

        Raises:
            UsageError: If the file holds none, or those on another data set or on rows that are not there.
        """
        named = f'data.filters: file={self.file!r}'
        content = _load(self.file, named)
        if content.get('version') != VERSION:
            raise UsageError(f'{named} is of version {content.get("version")!r}, but this release reads {VERSION}.')
        if content.get('fingerprint') != table.fingerprint:
            raise UsageError(
                f'{named} holds decisions on another data set, or on this one before it was changed: audit these pairs '
                f'and decide again, or give the data settings of that audit.'
            )
        decided: dict[Decision, list[int]] = {name: content.get(name, []) for name in get_args(Decision)}
        _check_rows(decided, len(table), named)
        return decided


def _load(file: str, named: str) -> Mapping[str, Any]:
    if not Path(file).is_file():
        raise UsageError(f'{named} does not exist: give the file that was saved on the page of an audit.')
    try:
        content = json.loads(Path(file).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f'{named} cannot be read as decisions ({str(error).partition(chr(10))[0]}).') from error
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise UsageError(f'{named} holds no decisions: give the file that was saved on the page of an audit.')
    return content


def _check_rows(decided: Mapping[Decision, Any], pairs: int, named: str) -> None:
    """Refuses decisions on rows that are not there, and two decisions on one."""
    seen: set[int] = set()
    for name, rows in decided.items():
        for row in rows if isinstance(rows, list) else [rows]:
            if type(row) is not int or not 0 <= row < pairs:
                raise UsageError(f'{named} decides {name} on row {row!r:.50}, but the {pairs:,} rows begin with 0.')
            if row in seen:
                raise UsageError(f'{named} holds two decisions on row {row}: leave one of them.')
            seen.add(row)
