"""Many runs from one file: ``python -m experiments.grid experiments/grids/cifar10.yaml --data.root=data/cifar10``.

A cell is one method on one data set under one set of attacks with two seeds: an ordinary ``clipward fit`` in a folder
of its own. What is done is skipped, what was killed goes on from its last checkpoint, and where a cell fails the others
go on. A finished cell leaves one small JSON file, and table.md beside them is made from those: they can be kept
without the runs.

The file; arguments are those of ``clipward fit``, those of every cell first, then data, method and attack, so that a
file of attacks replaces those of a file of data. ``{method}``, ``{data}``, ``{attack}`` are a cell's own names::

    arguments: ['--config=experiments/{method}_{data}.yaml']  # of every cell
    methods:
      clip: []
      cleanclip: {start: clip, arguments: [--trainer.max_epochs=10]}  # from the weights of that method's cell
    data: {coco: []}                                        # may be left out, as may attacks
    attacks:
      badnet: [--config=experiments/attacks/badnet.yaml]
      wanet: {seeds: [11], arguments: [--config=experiments/attacks/wanet.yaml]}  # instead of those of the grid
    seeds: [11, [11, 12]]                                   # of data and training; a single number is both
    undefended: clip                                        # an attack with less success here is not established
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from datamodules.usage_error import UsageError
from experiments.report import Result, attack_table, load, read_run, save
from experiments.run_folder import DONE

AXES = ('methods', 'data', 'attacks')
KEYS = {*AXES, 'seeds', 'arguments', 'undefended'}

Seeds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Entry:
    """One value of an axis.

    Attributes:
        arguments: What it adds to the command.
        start: Method whose weights it starts from, on the same data, attacks and seeds; ``None`` for none.
        seeds: Of attacks, pairs of a data seed and a training seed; ``None`` for those of the grid.
    """

    arguments: tuple[str, ...] = ()
    start: str | None = None
    seeds: Seeds | None = None


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        method: Name of the method.
        data: Name of the data set, empty where the grid names none.
        attack: Name of the attacks, the same.
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
        """Name of the run, both seeds included."""
        named = filter(None, (self.method, self.data, self.attack))
        return '-'.join([*named, f'd{self.data_seed}', f't{self.seed}'])


@dataclass(frozen=True)
class Grid:
    """What a file says, see the head of this module.

    Attributes:
        methods: Arguments by name, as ``data`` and ``attacks``.
        data: See there.
        attacks: See there.
        seeds: Pairs of a data seed and a training seed, of attacks that name none.
        arguments: What every cell gets.
        undefended: Method that shows whether an attack works.
    """

    methods: dict[str, Entry]
    data: dict[str, Entry]
    attacks: dict[str, Entry]
    seeds: Seeds
    arguments: tuple[str, ...] = ()
    undefended: str | None = None

    def cells(self) -> list[Cell]:
        """Every cell, those of one seed together."""
        seeds_of = {name: self.seeds if entry.seeds is None else entry.seeds for name, entry in self.attacks.items()}
        every = dict.fromkeys(seeds for some in seeds_of.values() for seeds in some)
        axes = product(every, self.data, self.attacks, self.methods)
        return [Cell(method, data, attack, *seeds) for seeds, data, attack, method in axes if seeds in seeds_of[attack]]

    def start_of(self, cell: Cell) -> Cell | None:
        """The cell whose weights a cell starts from, ``None`` if it starts from none."""
        start = self.methods[cell.method].start
        return replace(cell, method=start) if start else None

    def command(self, cell: Cell) -> list[str]:
        """Arguments of ``clipward``, without where the run is kept and what it starts from."""
        parts = self.arguments, self.data[cell.data].arguments, self.methods[cell.method].arguments
        words = [word for part in (*parts, self.attacks[cell.attack].arguments) for word in part]
        for axis in ('method', 'data', 'attack'):
            words = [word.replace(f'{{{axis}}}', getattr(cell, axis)) for word in words]
        return ['fit', *words, f'--name={cell.name}', f'--data.seed={cell.data_seed}', f'--seed_everything={cell.seed}']


def read_grid(path: Path) -> Grid:
    """Reads a grid.

    Raises:
        UsageError: If it is no mapping with these keys, or a method starts from one that there is not.
    """
    content: Any = yaml.safe_load(path.read_text())
    keys = content.keys() if isinstance(content, dict) else set()
    if strange := sorted(keys ^ (keys & KEYS | {'methods', 'seeds'})):
        raise UsageError(f'{path}: {", ".join(strange)}: unknown or missing, a grid has {", ".join(sorted(KEYS))}.')
    axes = {axis: {name: _entry(value) for name, value in content.get(axis, {'': []}).items()} for axis in AXES}
    undefended, arguments = content.get('undefended'), tuple(content.get('arguments', ()))
    named = {undefended, *(entry.start for entry in axes['methods'].values())}
    if strange := sorted(filter(None, named - axes['methods'].keys())):
        raise UsageError(f'{path}: {", ".join(strange)}: start and undefended name one of the methods.')
    return Grid(**axes, seeds=_pairs(content['seeds']), arguments=arguments, undefended=undefended)


def _entry(value: Sequence[str] | dict[str, Any]) -> Entry:
    if isinstance(value, dict):
        seeds = value.get('seeds')
        return Entry(tuple(value.get('arguments', ())), value.get('start'), None if seeds is None else _pairs(seeds))
    return Entry(tuple(value))


def _pairs(seeds: Sequence[int | Sequence[int]]) -> Seeds:
    return tuple((seed, seed) if isinstance(seed, int) else (seed[0], seed[1]) for seed in seeds)


def run(cell: Cell, grid: Grid, runs: Path, results: Path, extra: Sequence[str] = ()) -> str:
    """Trains a cell unless its result is there.

    Args:
        cell: Which.
        grid: What it is part of.
        runs: Folder of the runs' folders.
        results: Folder of the results.
        extra: Arguments after all others.

    Returns:
        A line that says how it went.
    """
    kept, folder = results / f'{cell.name}.json', runs / cell.name
    if kept.exists():
        return f'{cell.name}: done before'
    if not _finished(folder):
        start = grid.start_of(cell)
        weights = _last_checkpoint(runs / start.name) if start else None
        if start and not weights:
            return f'{cell.name}: failed, as {start.name} has no checkpoint to start from'
        _train([*grid.command(cell), *extra], folder, weights)
    if not _finished(folder):  # the status proves nothing: Lightning may end a terminated run with 0
        return f'{cell.name}: failed, see {folder / "log.txt"}'
    try:
        save(replace(read_run(folder), name=cell.name.rsplit('-', 2)[0], seed=cell.seed), kept)
    except (OSError, UsageError, KeyError) as error:
        return f'{cell.name}: failed, as its folder cannot be read: {error}'
    return f'{cell.name}: done'


def _train(arguments: Sequence[str], folder: Path, weights: Path | None) -> None:
    """Runs a command of ``clipward``, going on from the run's own last checkpoint if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    own = _last_checkpoint(folder)
    goes_on = [f'--ckpt_path={own}'] if own else [f'--model.init_from={weights}'] if weights else []
    where = [f'--trainer.default_root_dir={folder.parent}', *goes_on]
    environment = {'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'offline', **os.environ}
    with open(folder / 'log.txt', 'a') as log:
        command = [sys.executable, '-m', 'experiments.cli', *arguments, *where]
        subprocess.run(command, stdout=log, stderr=log, env=environment)


def _finished(folder: Path) -> bool:
    return any(folder.glob(f'version_*/{DONE}'))


def _last_checkpoint(folder: Path) -> Path | None:
    found = list(folder.glob('version_*/checkpoints/last.ckpt'))
    return max(found, key=lambda path: path.stat().st_mtime) if found else None


def tables(grid: Grid, results: Path) -> str:
    """What the cells measured so far, as Markdown: for each data set, success by attack and method."""
    lines = []
    for data in grid.data:
        found: dict[str, dict[str, list[Result]]] = {}
        for cell in grid.cells():
            kept = results / f'{cell.name}.json'
            if cell.data == data and kept.exists():
                found.setdefault(cell.attack, {}).setdefault(cell.method, []).append(load(kept))
        lines += [f'### {data}\n'] * bool(data) + [attack_table(found, grid.undefended), '']
    return '\n'.join(lines)


def main() -> None:
    """Trains what is missing, then prints and writes the tables of all that is there."""
    further = 'Further arguments are given to every cell.'
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, epilog=further)
    parser.add_argument('grid', type=Path, help='YAML file')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time, one thread each')
    parser.add_argument('--runs', type=Path, help='folder of the runs (runs/<name of the file>)')
    parser.add_argument('--results', type=Path, help='folder of the results (<runs>/results)')
    options, extra = parser.parse_known_args()
    grid = read_grid(options.grid)
    runs = options.runs or Path('runs', options.grid.stem)
    results = options.results or runs / 'results'
    work = partial(run, grid=grid, runs=runs, results=results, extra=extra)
    first = [cell for cell in grid.cells() if grid.methods[cell.method].start is None]
    with ThreadPoolExecutor(options.jobs) as pool:
        for part in (first, [cell for cell in grid.cells() if cell not in first]):
            for line in pool.map(work, part):
                print(line, flush=True)
    found = tables(grid, results)
    results.mkdir(parents=True, exist_ok=True)  # where every cell has failed
    (results / 'table.md').write_text(found)
    print(found)


if __name__ == '__main__':
    main()
