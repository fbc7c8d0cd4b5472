"""Deals the cells of a grid to the tasks of a job array."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from datamodules.usage_error import UsageError
from experiments.grid_file import Cell, Grid


class Task(NamedTuple):
    """A task of a job array.

    Attributes:
        number: Its number, from 1 to ``total``.
        total: Number of tasks.
    """

    number: int
    total: int


def read_task(text: str) -> Task:
    """Reads ``I/N``, task I of N.

    Raises:
        UsageError: If this is not what the text says, or I is not from 1 to N.
    """
    match = re.fullmatch(r'(\d+)/(\d+)', text, re.ASCII)
    if match is None:
        raise UsageError(f'--array={text}: give the task and the number of tasks as I/N, as in --array 1/8.')
    task = Task(*map(int, match.groups()))
    if not 1 <= task.number <= task.total:
        raise UsageError(
            f'--array={text}: tasks are counted from 1, so the first number must lie in 1 to {task.total}.'
        )
    return task


def cells_of(grid: Grid, task: Task) -> set[Cell]:
    """The cells that a task trains: whole chains, so that no task waits for another one.

    Chains go to the task that has the fewest cells, longer ones first.
    """
    tasks: list[set[Cell]] = [set() for _ in range(task.total)]
    for chain in sorted(chains(grid), key=len, reverse=True):
        min(tasks, key=len).update(chain)
    return tasks[task.number - 1]


def chains(grid: Grid) -> list[set[Cell]]:
    """Sets of cells of which none needs a file of a cell in another one."""
    found: list[set[Cell]] = []
    for cell in grid.cells():
        linked = {cell, *(replace(cell, method=method) for method in grid.methods[cell.method].needs)}
        joined = [chain for chain in found if chain & linked]
        found = [chain for chain in found if not chain & linked] + [linked.union(*joined)]
    return found
