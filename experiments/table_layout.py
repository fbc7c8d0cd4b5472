"""What a table of methods shows, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from datamodules.usage_error import UsageError

KEYS = {'methods', 'attacks'}


@dataclass(frozen=True)
class TableLayout:
    """Rows and columns of a table of methods.

    Attributes:
        kinds: Kind of defense -> method -> name that the table shows.
        attacks: Attack as it is called in the runs -> name that the table shows.
    """

    kinds: dict[str, dict[str, str]]
    attacks: dict[str, str]

    @property
    def methods(self) -> dict[str, str]:
        """Method -> name that the table shows, in the order of the rows."""
        return {method: name for methods in self.kinds.values() for method, name in methods.items()}


def read_layout(value: Any, methods: Collection[str], where: str) -> TableLayout:
    """Reads the key ``table`` of a grid file.

    Args:
        value: Its value.
        methods: Methods that the grid trains.
        where: What errors call the key.

    Raises:
        UsageError: If it is something else, or names a method that the grid does not train, or one twice, or shows two
            of them under one name.
    """
    if (
        not isinstance(value, dict)
        or {*value} != KEYS
        or not isinstance(value['methods'], dict)
        or not value['methods']
    ):
        raise UsageError(
            f'{where} must have the keys methods and attacks, as in '
            '{methods: {no defense: {clip: CLIP}}, attacks: {badnet: BadNet}}.'
        )
    kinds = {str(kind): _read_names(rows, f'{where}.methods.{kind}') for kind, rows in value['methods'].items()}
    layout = TableLayout(kinds, _read_names(value['attacks'], f'{where}.attacks'))
    if unknown := sorted(layout.methods.keys() - {*methods}):
        raise UsageError(f'{where}.methods: {", ".join(unknown)}: not one of the methods that the grid trains.')
    if len(layout.methods) < sum(map(len, kinds.values())):
        raise UsageError(f'{where}.methods: a method is listed twice.')
    for key, names in (('methods', layout.methods), ('attacks', layout.attacks)):
        if repeated := [shown for shown, count in Counter(names.values()).items() if count > 1]:
            raise UsageError(f'{where}.{key}: two are called {repeated[0]!r}: give each a name of its own.')
    return layout


def _read_names(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise UsageError(f'{where} must map names to those that the table shows, as in {{clip: CLIP}}; got {value!r}.')
    return {str(name): str(shown) for name, shown in value.items()}
