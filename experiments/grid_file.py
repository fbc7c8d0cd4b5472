"""The grid file is YAML. All arguments are those of ``clipward fit``.

A cell's command starts with the arguments that all cells share. Those of its data, its method and its attack follow, so
a file of attacks overrides the file of a data set. ``{method}``, ``{data}`` and ``{attack}`` stand for the cell's own
names::

    arguments: ['--config=data/{data}.yaml', '--config=methods/{method}.yaml']  # shared by all cells
    methods:
      clip: []
      safeclip: []
      cleanclip: {start: clip, arguments: [--trainer.max_epochs=10]}  # starts from the weights of the clip cell
      par: {start: clip, seeds: [11], arguments: [...]}     # with 11 alone of the seeds below
      retrain: {ledger: safeclip, keep: {max_p: 0.05}, arguments: [...]}  # on the pairs that safeclip's ledger keeps
      scores: {predict: retrain, arguments: [...]}          # trains nothing: the model of retrain writes a ledger
    data: {coco: []}                                        # optional, as is attacks
    attacks:
      badnet: [--config=attacks/badnet.yaml]
      wanet: {seeds: [11], arguments: [--config=attacks/wanet.yaml]}  # seeds of this attack alone
    seeds: [11, [11, 12]]                                   # data seed and training seed; one number is both
    undefended: clip                                        # attacks below 0.5 here are marked "not established"
    table:                                                  # optional: a table with a row for each of these methods
      methods: {no defense: {clip: CLIP}, repair: {par: PAR}}  # by kinds, which have colors in its figure
      attacks: {badnet: BadNet}                             # as the runs call them

``ledger`` may be a list. ``keep`` holds arguments of :class:`datamodules.rows.filters.LedgerFilter`; without it, the
safe side is kept. ``keep: {class_path: DensityFilter, init_args: {drop_share: 0.1}}`` names another filter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from datamodules.usage_error import UsageError
from experiments.kept_pairs import filter_options
from experiments.table_layout import TableLayout, read_layout

AXES = ('methods', 'data', 'attacks')
KEYS = {*AXES, 'seeds', 'arguments', 'undefended', 'table'}
REQUIRED_KEYS = {'methods', 'seeds'}
ENTRY_KEYS = ('arguments', 'start', 'ledger', 'keep', 'predict', 'seeds')

Seeds = tuple[tuple[int, int], ...]  # pairs of a data seed and a training seed


@dataclass(frozen=True)
class Entry:
    """A method, a data set or a set of attacks of the grid.

    Attributes:
        arguments: Arguments that it adds to the command.
        start: For a method, the one whose weights it starts from, with the same data, attacks and seeds.
        ledgers: For a method, those whose ledgers say which pairs it is trained on, with the same data, attacks and
            seeds.
        keep: Options of the filter that reads the ledgers, without the files.
        predict: For a method that trains nothing, the one whose model scores its pairs.
        seeds: Pairs of a data seed and a training seed. Attacks are run with them instead of the seeds of the grid;
            methods and data sets only where these are among them.
    """

    arguments: tuple[str, ...] = ()
    start: str | None = None
    ledgers: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    predict: str | None = None
    seeds: Seeds | None = None

    @property
    def needs(self) -> list[str]:
        """Methods whose runs must have ended before this one can begin."""
        return [method for method in (self.start, self.predict, *self.ledgers) if method]

    def allows(self, seeds: tuple[int, int]) -> bool:
        """Whether a data seed and a training seed are among those of a method or a data set."""
        return self.seeds is None or seeds in self.seeds


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
        table: What the table of methods shows; ``None`` without one.
    """

    methods: dict[str, Entry]
    data: dict[str, Entry]
    attacks: dict[str, Entry]
    seeds: Seeds
    arguments: tuple[str, ...] = ()
    undefended: str | None = None
    table: TableLayout | None = None

    def cells(self) -> list[Cell]:
        """All cells, grouped by their seeds."""
        seeds_of = {name: self.seeds if entry.seeds is None else entry.seeds for name, entry in self.attacks.items()}
        all_seeds = dict.fromkeys(seeds for pairs in seeds_of.values() for seeds in pairs)
        axes = product(all_seeds, self.data, self.attacks, self.methods)
        return [
            Cell(method, data, attack, *seeds)
            for seeds, data, attack, method in axes
            if seeds in seeds_of[attack] and self.methods[method].allows(seeds) and self.data[data].allows(seeds)
        ]

    def weights_of(self, cell: Cell) -> Cell | None:
        """The cell whose weights ``cell`` starts from, or scores pairs with; ``None`` for a cell from scratch."""
        method = self.methods[cell.method]
        weights = method.predict or method.start
        return replace(cell, method=weights) if weights else None

    def ledgers_of(self, cell: Cell) -> list[Cell]:
        """The cells whose ledgers say which pairs ``cell`` is trained on; none for all pairs."""
        return [replace(cell, method=method) for method in self.methods[cell.method].ledgers]

    def is_scoring(self, cell: Cell) -> bool:
        """Whether a cell only writes a ledger."""
        return self.methods[cell.method].predict is not None

    def users_of(self, cell: Cell) -> list[Cell]:
        """The cells that need a file of a cell."""
        needing = [name for name, entry in self.methods.items() if cell.method in entry.needs]
        return [user for user in self.cells() if user.method in needing and replace(user, method=cell.method) == cell]

    def waves(self) -> list[list[Cell]]:
        """All cells, first those that need no other, then those that need the first alone, and so on."""
        depths = {name: self.depth(name) for name in self.methods}
        return [[cell for cell in self.cells() if depths[cell.method] == depth] for depth in sorted({*depths.values()})]

    def depth(self, method: str, above: tuple[str, ...] = ()) -> int:
        """Number of methods that must have ended, one after the other, before a method can begin.

        Args:
            method: Name of the method.
            above: Methods that need it, directly or not.

        Raises:
            UsageError: If methods need each other.
        """
        chain = (*above, method)
        if method in above:
            raise UsageError(f'methods.{chain[0]}: {" needs ".join(chain)}, so none can be first.')
        return max((1 + self.depth(needed, chain) for needed in self.methods[method].needs), default=0)

    def stages(self, method: str) -> set[str]:
        """A method and all those that must have ended before it can begin."""
        return {method}.union(*(self.stages(needed) for needed in self.methods[method].needs))

    def command(self, cell: Cell) -> list[str]:
        """Arguments of ``clipward`` for a cell, without the run's folder and the files that other cells leave it."""
        method = self.methods[cell.method]
        parts = self.arguments, self.data[cell.data].arguments, method.arguments, self.attacks[cell.attack].arguments
        words = [word for part in (*parts, method.keep) for word in part]
        for axis in ('method', 'data', 'attack'):
            words = [word.replace(f'{{{axis}}}', getattr(cell, axis)) for word in words]
        subcommand = 'predict' if self.is_scoring(cell) else 'fit'
        return [
            subcommand,
            *words,
            f'--name={cell.name}',
            f'--data.seed={cell.data_seed}',
            f'--seed_everything={cell.seed}',
        ]


def read_grid(path: Path) -> Grid:
    """Reads a grid file.

    Raises:
        UsageError: If the file is not a grid, a key is unknown or missing, ``start``, ``ledger``, ``predict`` or
            ``undefended`` is not one of the methods, methods need each other, or two cells would have one name.
    """
    content = _read_yaml(path)
    if wrong_keys := sorted(content.keys() - KEYS | REQUIRED_KEYS - content.keys()):
        raise UsageError(
            f'{path}: {", ".join(wrong_keys)}: unknown or missing. The keys of a grid are {", ".join(sorted(KEYS))}.'
        )
    axes = {axis: _read_axis(content.get(axis, {'': []}), f'{path}: {axis}') for axis in AXES}
    arguments = _read_words(content.get('arguments', []), f'{path}: arguments')
    undefended = _read_name(content, 'undefended')
    references = {undefended, *(method for entry in axes['methods'].values() for method in entry.needs)}
    if unknown_methods := sorted(filter(None, references - axes['methods'].keys())):
        raise UsageError(
            f'{path}: {", ".join(unknown_methods)}: start, ledger, predict and undefended must name one of the methods.'
        )
    seeds = _read_seeds(content['seeds'], f'{path}: seeds')
    table = content.get('table')
    trained = [name for name, entry in axes['methods'].items() if not entry.predict]
    layout = None if table is None else read_layout(table, trained, f'{path}: table')
    grid = Grid(**axes, seeds=seeds, arguments=arguments, undefended=undefended, table=layout)
    _check(grid, path)
    return grid


def _check(grid: Grid, path: Path) -> None:
    for name, entry in grid.methods.items():
        grid.depth(name)
        _check_trained(grid, (entry.start, entry.predict), f'{path}: methods.{name}')
    _check_trained(grid, (grid.undefended,), f'{path}: undefended')
    if grid.table and not grid.undefended:
        raise UsageError(
            f'{path}: table shows training time over that of the undefended method: name it as undefended.'
        )
    cells = grid.cells()
    if not cells:
        raise UsageError(f'{path} has no cell: no method and no data set has the seeds of an attack; give them some.')
    for cell in cells:
        for needed in grid.methods[cell.method].needs:
            if replace(cell, method=needed) not in cells:
                raise UsageError(f'{path}: {cell.name} needs {needed}, whose seeds leave it out: add them there.')
    counts = Counter(cell.name for cell in cells)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        raise UsageError(f'{path}: two cells are named {repeated[0]}: rename a method, a data set or an attack.')


def _check_trained(grid: Grid, needed: Sequence[str | None], where: str) -> None:
    for method in filter(None, needed):
        if grid.methods[method].predict:
            raise UsageError(f'{where}: {method} predicts and trains nothing: name a method that is trained.')


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UsageError(f'{path} cannot be read: {error.strerror}.') from error
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f'{path} is not YAML: {" ".join(str(error).split())}.') from error
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _read_axis(value: Any, where: str) -> dict[str, Entry]:
    if not isinstance(value, dict) or not value:
        raise UsageError(f'{where} must map names to arguments, as in {{clip: []}}; got {value!r}.')
    return {str(name): _read_entry(entry, f'{where}.{name}') for name, entry in value.items()}


def _read_entry(value: Any, where: str) -> Entry:
    if not isinstance(value, dict):
        return Entry(_read_words(value, where))
    if unknown := sorted(map(str, value.keys() - ENTRY_KEYS)):
        raise UsageError(f'{where}: {unknown[0]} is unknown; the keys are {", ".join(ENTRY_KEYS)}.')
    seeds, ledgers = value.get('seeds'), _read_names(value, 'ledger')
    if value.get('predict') and (ledgers or value.get('start')):
        raise UsageError(f'{where}: predict trains nothing: leave out start and ledger.')
    return Entry(
        _read_words(value.get('arguments', []), f'{where}.arguments'),
        _read_name(value, 'start'),
        ledgers,
        _read_keep(value.get('keep'), ledgers, f'{where}.keep'),
        _read_name(value, 'predict'),
        None if seeds is None else _read_seeds(seeds, f'{where}.seeds'),
    )


def _read_keep(value: Any, ledgers: Sequence[str], where: str) -> tuple[str, ...]:
    if ledgers:
        return filter_options({} if value is None else value, ledgers, where)
    if value:
        raise UsageError(f'{where} needs a ledger, as in {{ledger: safeclip, keep: {{max_p: 0.1}}}}.')
    return ()


def _read_name(content: dict[str, Any], key: str) -> str | None:
    return None if content.get(key) is None else str(content[key])


def _read_names(content: dict[str, Any], key: str) -> tuple[str, ...]:
    value = content.get(key)
    return tuple(map(str, value if isinstance(value, list) else [] if value is None else [value]))


def _read_words(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UsageError(f'{where} must be a list of arguments, as in [--trainer.max_epochs=10]; got {value!r}.')
    return tuple(value)


def _read_seeds(value: Any, where: str) -> Seeds:
    pairs = [seed if isinstance(seed, list) else [seed, seed] for seed in value] if isinstance(value, list) else []
    if not pairs or not all(len(pair) == 2 and all(type(seed) is int for seed in pair) for pair in pairs):
        raise UsageError(
            f'{where} must be a list of numbers, or of pairs of numbers, as in [1, [1, 2]]; got {value!r}.'
        )
    return tuple((data_seed, seed) for data_seed, seed in pairs)
