"""Trains every cell of a grid file.

For example: ``python -m experiments.grid experiments/grids/cifar10.yaml --jobs 2 --data.root=data/cifar10``.

A cell of a grid is one method on one data set under one set of attacks, with one pair of seeds. It is an ordinary
``clipward fit`` in its own folder. Finished cells are skipped, and killed cells resume from their last checkpoint. If
a cell fails, the others still run. A finished cell leaves one small JSON file. The table.md beside these files is made
from them alone, so the runs can be deleted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from datamodules.files.atomic import write_text
from datamodules.usage_error import UsageError
from experiments import grid_file
from experiments.grid_file import Cell, Grid, read_grid
from experiments.results import Result, load, read_run, save
from experiments.run_folder import DONE
from experiments.tables import attack_table


def run(cell: Cell, grid: Grid, runs: Path, results: Path, extra: Sequence[str] = ()) -> str:
    """Trains a cell, unless its result exists, and saves the result.

    Args:
        cell: The cell.
        grid: The grid that it belongs to.
        runs: Folder that holds the run folders.
        results: Folder of the results.
        extra: Arguments to append to the command.

    Returns:
        A line with the cell's name and its outcome.
    """
    result_file, folder = results / f'{cell.name}.json', runs / cell.name
    if result_file.exists():
        return f'{cell.name}: already done'
    if not _is_finished(folder):
        start = grid.start_of(cell)
        weights = _last_checkpoint(runs / start.name) if start else None
        if start and not weights:
            return f'{cell.name}: failed, because {start.name} has no checkpoint to start from'
        _train([*grid.command(cell), *extra], folder, weights)
    if not _is_finished(folder):  # not the exit status: Lightning may exit with 0 when a run is terminated
        return f'{cell.name}: failed, see {folder / "log.txt"}'
    try:
        save(replace(read_run(folder), name=cell.name_without_seeds, seed=cell.seed), result_file)
    except (OSError, UsageError, KeyError) as error:
        return f'{cell.name}: failed, because its folder cannot be read: {error}'
    return f'{cell.name}: done'


def _train(arguments: Sequence[str], folder: Path, weights: Path | None) -> None:
    """Runs ``clipward``, resuming from the run's last checkpoint if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = _last_checkpoint(folder)
    start_from = [f'--ckpt_path={checkpoint}'] if checkpoint else [f'--model.init_from={weights}'] if weights else []
    command = [sys.executable, '-m', 'experiments.cli', *arguments, f'--trainer.default_root_dir={folder.parent}']
    environment = {'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'offline', **os.environ}
    with open(folder / 'log.txt', 'a') as log:
        subprocess.run([*command, *start_from], stdout=log, stderr=log, env=environment)


def _is_finished(folder: Path) -> bool:
    return any(folder.glob(f'version_*/{DONE}'))


def _last_checkpoint(folder: Path) -> Path | None:
    checkpoints = list(folder.glob('version_*/checkpoints/last.ckpt'))
    return max(checkpoints, key=lambda path: path.stat().st_mtime) if checkpoints else None


def make_tables(grid: Grid, results: Path) -> str:
    """Markdown tables of the cells that are finished: for each data set, success by attack and method."""
    lines = []
    for data in grid.data:
        runs: dict[str, dict[str, list[Result]]] = {}
        for cell in grid.cells():
            file = results / f'{cell.name}.json'
            if cell.data == data and file.exists():
                runs.setdefault(cell.attack, {}).setdefault(cell.method, []).append(load(file))
        lines += [f'### {data}\n'] * bool(data) + [attack_table(runs, grid.undefended), '']
    return '\n'.join(lines)


def main() -> None:
    """Trains the cells that are not finished, then prints and writes the tables of all finished ones."""
    parser = argparse.ArgumentParser(
        description=f'{__doc__}\n{grid_file.__doc__}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='All other arguments are passed on to every cell.',
    )
    parser.add_argument('grid', type=Path, help='YAML file')
    parser.add_argument('--jobs', type=int, default=1, help='number of runs at a time, with one thread each')
    parser.add_argument('--runs', type=Path, help='folder of the runs (default: runs/<name of the file>)')
    parser.add_argument('--results', type=Path, help='folder of the results (default: <runs>/results)')
    options, extra = parser.parse_known_args()
    try:
        grid = read_grid(options.grid)
    except UsageError as error:
        parser.error(str(error))
    runs = options.runs or Path('runs', options.grid.stem)
    results = options.results or runs / 'results'
    for line in run_all(grid, runs, results, extra, options.jobs):
        print(line, flush=True)
    tables = make_tables(grid, results)
    write_text(results / 'table.md', tables)
    print(tables)


def run_all(grid: Grid, runs: Path, results: Path, extra: Sequence[str], jobs: int) -> Iterator[str]:
    """Runs all cells; those that start from another cell's weights come last.

    Args:
        grid: The grid.
        runs: Folder that holds the run folders.
        results: Folder of the results.
        extra: Arguments to append to the command of every cell.
        jobs: Number of runs at a time.

    Yields:
        For each cell, a line with its name and its outcome.
    """
    run_one = partial(run, grid=grid, runs=runs, results=results, extra=extra)
    from_scratch = [cell for cell in grid.cells() if grid.start_of(cell) is None]
    from_others = [cell for cell in grid.cells() if grid.start_of(cell) is not None]
    with ThreadPoolExecutor(jobs) as pool:
        for cells in (from_scratch, from_others):
            yield from pool.map(run_one, cells)


if __name__ == '__main__':
    main()
