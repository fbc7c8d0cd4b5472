"""Chooses cells of a grid by their names."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from datamodules.usage_error import UsageError
from experiments.grid_file import Cell


def choose_cells(cells: Collection[Cell], patterns: str) -> set[Cell]:
    """The cells whose names match one of some patterns, such as ``clip-mem3-*,vit-*-d1-t1``.

    Args:
        cells: All cells.
        patterns: Shell patterns, with commas between them.

    Raises:
        UsageError: If a pattern matches none.
    """
    chosen: set[Cell] = set()
    for pattern in patterns.split(','):
        matched = {cell for cell in cells if fnmatchcase(cell.name, pattern)}
        if not matched:
            names = sorted(cell.name for cell in cells)
            raise UsageError(f'--cells={pattern}: no cell is named so; the first of {len(names)} is {names[0]}.')
        chosen |= matched
    return chosen
