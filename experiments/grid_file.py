"""The grid file is YAML. All arguments are those of ``clipward fit``.

A cell's command starts with the arguments that all cells share. Those of its data, its method and its attack follow, so
a file of attacks overrides the file of a data set. ``{method}``, ``{data}`` and ``{attack}`` stand for the cell's own
names::

    arguments: ['--config=data/{data}.yaml', '--config=methods/{method}.yaml']  # shared by all cells
    methods:
      clip: []
      cleanclip: {start: clip, arguments: [--trainer.max_epochs=10]}  # starts from the weights of the clip cell
    data: {coco: []}                                        # optional, as is attacks
    attacks:
      badnet: [--config=attacks/badnet.yaml]
      wanet: {seeds: [11], arguments: [--config=attacks/wanet.yaml]}  # seeds of this attack alone
    seeds: [11, [11, 12]]                                   # data seed and training seed; one number is both
    undefended: clip                                        # attacks below 0.5 here are marked "not established"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from datamodules.usage_error import UsageError

AXES = ('methods', 'data', 'attacks')
KEYS = {*AXES, 'seeds', 'arguments', 'undefended'}
REQUIRED_KEYS = {'methods', 'seeds'}

Seeds = tuple[tuple[int, int], ...]  # pairs of a data seed and a training seed


@dataclass(frozen=True)
class Entry:
    """A method, a data set or a set of attacks of the grid.

    Attributes:
        arguments: Arguments that it adds to the command.
        start: For a method, the one whose weights it starts from, with the same data, attacks and seeds.
        seeds: For attacks, pairs of a data seed and a training seed; the seeds of the grid if ``None``.
    """

    arguments: tuple[str, ...] = ()
    start: str | None = None
    seeds: Seeds | None = None


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        method: Name of the method.
        data: Name of the data set; empty if the grid does not name any.
        attack: Name of the set of attacks; empty if the grid does not name any.
        data_seed: Seed of poisons, batches and views.
        seed: Seed of training.
    """

    method: str
    data: str
    attack: str
    data_seed: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the run, with both seeds."""
        return f'{self.name_without_seeds}-d{self.data_seed}-t{self.seed}'

    @property
    def name_without_seeds(self) -> str:
        """Name that repetitions with other seeds share."""
        return '-'.join(filter(None, (self.method, self.data, self.attack)))


@dataclass(frozen=True)
class Grid:
    """The content of a grid file.

    Attributes:
        methods: Methods by name.
        data: Data sets by name.
        attacks: Sets of attacks by name.
        seeds: Pairs of a data seed and a training seed, for attacks that do not have their own.
        arguments: Arguments that all cells share.
        undefended: Method whose success tells whether an attack works.
    """

    methods: dict[str, Entry]
    data: dict[str, Entry]
    attacks: dict[str, Entry]
    seeds: Seeds
    arguments: tuple[str, ...] = ()
    undefended: str | None = None

    def cells(self) -> list[Cell]:
        """All cells, grouped by their seeds."""
        seeds_of = {name: self.seeds if entry.seeds is None else entry.seeds for name, entry in self.attacks.items()}
        all_seeds = dict.fromkeys(seeds for pairs in seeds_of.values() for seeds in pairs)
        axes = product(all_seeds, self.data, self.attacks, self.methods)
        return [Cell(method, data, attack, *seeds) for seeds, data, attack, method in axes if seeds in seeds_of[attack]]

    def start_of(self, cell: Cell) -> Cell | None:
        """The cell whose weights ``cell`` starts from; ``None`` for a cell that starts from scratch."""
        start = self.methods[cell.method].start
        return replace(cell, method=start) if start else None

    def command(self, cell: Cell) -> list[str]:
        """Arguments of ``clipward`` for a cell, without the run's folder and the weights that it starts from."""
        parts = self.arguments, self.data[cell.data].arguments, self.methods[cell.method].arguments
        words = [word for part in (*parts, self.attacks[cell.attack].arguments) for word in part]
        for axis in ('method', 'data', 'attack'):
            words = [word.replace(f'{{{axis}}}', getattr(cell, axis)) for word in words]
        return ['fit', *words, f'--name={cell.name}', f'--data.seed={cell.data_seed}', f'--seed_everything={cell.seed}']


def read_grid(path: Path) -> Grid:
    """Reads a grid file.

    Raises:
        UsageError: If a key is unknown or missing, or if ``start`` or ``undefended`` is not one of the methods.
    """
    content: Any = yaml.safe_load(path.read_text())
    keys = content.keys() if isinstance(content, dict) else set()
    if wrong_keys := sorted(keys - KEYS | REQUIRED_KEYS - keys):
        raise UsageError(
            f'{path}: {", ".join(wrong_keys)}: unknown or missing. The keys of a grid are {", ".join(sorted(KEYS))}.'
        )
    axes = {axis: {name: _read_entry(value) for name, value in content.get(axis, {'': []}).items()} for axis in AXES}
    undefended, arguments = content.get('undefended'), tuple(content.get('arguments', ()))
    references = {undefended, *(entry.start for entry in axes['methods'].values())}
    if unknown_methods := sorted(filter(None, references - axes['methods'].keys())):
        raise UsageError(f'{path}: {", ".join(unknown_methods)}: start and undefended must name one of the methods.')
    return Grid(**axes, seeds=_read_seeds(content['seeds']), arguments=arguments, undefended=undefended)


def _read_entry(value: Sequence[str] | dict[str, Any]) -> Entry:
    if isinstance(value, dict):
        seeds = value.get('seeds')
        return Entry(
            tuple(value.get('arguments', ())), value.get('start'), None if seeds is None else _read_seeds(seeds)
        )
    return Entry(tuple(value))


def _read_seeds(seeds: Sequence[int | Sequence[int]]) -> Seeds:
    return tuple((seed, seed) if isinstance(seed, int) else (seed[0], seed[1]) for seed in seeds)
