"""Trains every cell of a grid file.

For example: ``python -m experiments.grid experiments/grids/cifar10.yaml --jobs 2 --data.root=data/cifar10``.

A cell of a grid is one method on one data set under one set of attacks, with one pair of seeds. It is an ordinary
``clipward fit`` in its own folder. A method may start from the weights of another one, or be trained on the pairs that
another one's ledger keeps; it then comes after it. Finished cells are skipped, and killed cells resume from their last
checkpoint. If a cell fails, the others still run, and the exit status is 1. A grid that is told to end takes its runs
with it. Several grids may share their folders: a cell that one of them runs is left to it. ``--array I/N`` deals the
cells to the tasks of a job array. A finished cell leaves one small JSON file. The table.md beside these files, and its
figure, are made from them alone, so the runs can be deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from callbacks.ledger import FILE as LEDGER
from datamodules.files.atomic import write_text
from datamodules.files.locks import FolderInUseError, lock
from datamodules.files.quoting import spell_out
from datamodules.usage_error import UsageError
from experiments import grid_file
from experiments.cell_choice import choose_cells
from experiments.child_processes import Children, ended_by_signals
from experiments.config_files import SHIPPED
from experiments.errors import short_errors
from experiments.grid_file import Cell, Grid, read_grid
from experiments.grid_results import load_result, of_cell, result_file, write_report
from experiments.job_array import cells_of, read_task
from experiments.kept_pairs import OPTION as FILTER_OPTION
from experiments.option_check import check_options
from experiments.result_files import save
from experiments.results import Result
from experiments.run_folder import DONE
from experiments.run_results import finished_version, read_run, versions

LAST_CHECKPOINT = 'checkpoints/last.ckpt'
COMMAND = 'command.txt'  # in a cell's folder: the command that started it
SECONDS_BETWEEN_TRIES = 1.0  # of a cell that runs elsewhere
SET_BY_THE_GRID = ('--name', '--data.seed', '--seed_everything', '--ckpt_path', '--trainer.default_root_dir')


class Outcome(NamedTuple):
    """What became of a cell.

    Attributes:
        cell: The cell.
        state: ``elsewhere`` if another grid runs it.
        text: The same in words.
    """

    cell: Cell
    state: Literal['done', 'failed', 'elsewhere']
    text: str


class GridRunner:
    """Trains the cells of a grid.

    Args:
        grid: The grid.
        runs: Folder that holds the run folders.
        results: Folder of the results.
        extra: Arguments to append to the command of every cell.
        children: Runs the commands.
    """

    def __init__(self, grid: Grid, runs: Path, results: Path, extra: Sequence[str], children: Children) -> None:
        self.grid, self.runs, self.results, self.extra, self.children = grid, runs, results, extra, children

    def run_all(self, pool: Executor, cells: Collection[Cell]) -> Iterator[Outcome]:
        """Runs cells; those that need a file of another cell come after it.

        Args:
            pool: Threads, each for one run at a time.
            cells: The cells to run.

        Yields:
            The outcome of each cell. A cell that another grid runs has two, the second when that one has ended.
        """
        for wave in self.grid.waves():
            elsewhere = []
            for outcome in pool.map(self.run, [cell for cell in wave if cell in cells]):
                yield outcome
                if outcome.state == 'elsewhere':
                    elsewhere.append(outcome.cell)
            yield from pool.map(self.run_when_free, elsewhere)

    def run_when_free(self, cell: Cell) -> Outcome:
        """Waits until nothing else runs a cell, then runs it unless it is done."""
        while (outcome := self.run(cell)).state == 'elsewhere' and not self.children.stopped.wait(
            SECONDS_BETWEEN_TRIES
        ):
            pass
        return outcome

    def run(self, cell: Cell) -> Outcome:
        """Trains a cell and saves its result, unless that exists or something else runs the cell."""
        try:
            if result := load_result(self.results, cell):
                return self._done(cell, result, 'already done')
            if self.grid.is_scoring(cell) and self._is_scored(cell):
                return self._ended(cell, self._recorded_command(cell), 'already done', f'{self.runs / cell.name}')
            with lock(self.runs / cell.name) as held:
                if result := load_result(self.results, cell):  # since the first look
                    return self._done(cell, result, 'already done')
                return self._finish(cell, held)
        except FolderInUseError as error:
            return Outcome(cell, 'elsewhere', f'runs in {error.holder}, waiting for it at the end')
        except (OSError, UsageError) as error:
            return Outcome(cell, 'failed', f'failed: {error}')

    def _command(self, cell: Cell) -> str:
        return shlex.join([*self.grid.command(cell), *self.extra])

    def _labels(self, cell: Cell) -> dict[str, str]:
        """Group and tags of a cell in W&B, which reads them from the environment."""
        return {
            'WANDB_RUN_GROUP': self.runs.name,
            'WANDB_TAGS': ','.join(filter(None, (cell.method, cell.data, cell.attack))),
        }

    def _recorded_command(self, cell: Cell) -> str:
        """The command that started the run in a cell's folder; empty if it is not known."""
        file = self.runs / cell.name / COMMAND
        return file.read_text(errors='replace') if file.exists() else ''

    def _done(self, cell: Cell, result: Result, text: str) -> Outcome:
        return self._ended(cell, result.command, text, f'{result.source} and {self.runs / cell.name}')

    def _ended(self, cell: Cell, command: str, text: str, files: str) -> Outcome:
        by_another = f' by another command: to run it again, delete {files}'
        return Outcome(cell, 'done', text + by_another * (command not in ('', self._command(cell))))

    def _is_scored(self, cell: Cell) -> bool:
        """Whether a cell that leaves no result has left its ledger, or none that needs it is without a result."""
        users = self.grid.users_of(cell)
        return bool(
            left_in(self.runs / cell.name, LEDGER) or (users and all(load_result(self.results, user) for user in users))
        )

    def _ledgers(self, cell: Cell) -> list[str]:
        """The option that names the ledgers which say what a cell is trained on."""
        for other in self.grid.ledgers_of(cell):
            if (result := load_result(self.results, other)) and result.distrusted_after is not None:
                raise UsageError(
                    f'the split of {other.name} after epoch {result.distrusted_after} could not be trusted, so nothing '
                    f'is trained on its ledger; {self.runs / other.name / "log.txt"} says why.'
                )
        files = [str(self._left_by(other, LEDGER, 'a ledger')) for other in self.grid.ledgers_of(cell)]
        return [f'{FILTER_OPTION}.file={files[0] if len(files) == 1 else json.dumps(files)}'] if files else []

    def _start(self, cell: Cell) -> list[str]:
        """The option that names what a run goes on from: its own last checkpoint, or the weights of another cell."""
        if checkpoint := last_checkpoint(self.runs / cell.name):
            return [f'--ckpt_path={checkpoint}']
        if other := self.grid.weights_of(cell):
            option = '--ckpt_path' if self.grid.is_scoring(cell) else '--model.init_from'
            return [f'{option}={self._left_by(other, LAST_CHECKPOINT, "a checkpoint to start from")}']
        return []

    def _left_by(self, cell: Cell, name: str, what: str) -> Path:
        """A file of another cell's finished run."""
        if file := left_in(self.runs / cell.name, name):
            return file
        result = result_file(self.results, cell)
        deleted = f' Its run was deleted: to train it again, delete {result}.' if result.exists() else ''
        raise UsageError(f'{cell.name} has not left {what}.{deleted}')

    def _finish(self, cell: Cell, held: int) -> Outcome:
        folder = self.runs / cell.name
        sign = LEDGER if self.grid.is_scoring(cell) else DONE
        if not left_in(folder, sign):
            self._run(cell, held)
        finished = left_in(folder, sign)  # not the exit status: Lightning may exit with 0 when a run is terminated
        if not finished:
            return Outcome(cell, 'failed', f'failed{_reason(folder / "log.txt")}, see {folder / "log.txt"}')
        if self.grid.is_scoring(cell):
            return Outcome(cell, 'done', 'done')
        result = read_run(finished.parent)
        if result is None:
            raise UsageError(f'{finished.parent} holds no measurement.')
        file = result_file(self.results, cell)
        result = replace(of_cell(result, cell), command=self._recorded_command(cell), source=str(file))
        save(result, file)
        epoch = result.distrusted_after
        return self._done(cell, result, 'done' if epoch is None else f'done, not to be trusted after epoch {epoch}')

    def _run(self, cell: Cell, held: int) -> None:
        """Runs ``clipward``, resuming from the run's last checkpoint if it has one."""
        folder = self.runs / cell.name
        of_folder = [f'--trainer.default_root_dir={self.runs}', *self._ledgers(cell), *self._start(cell)]
        if not last_checkpoint(folder):
            write_text(folder / COMMAND, self._command(cell))
        arguments = [*self.grid.command(cell), *self.extra, *of_folder]
        environment = {'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'offline', **self._labels(cell), **os.environ}
        # The run holds the lock too: should this process be killed, no other grid starts the cell beside it.
        self.children.run(
            [sys.executable, '-m', 'experiments.cli', *arguments], folder / 'log.txt', environment, [held]
        )


def left_in(folder: Path, name: str) -> Path | None:
    """A file in the folder of a run's name: that of its finished training, or that of its latest ``predict``."""
    finished = finished_version(folder)
    predictions = sorted(folder.glob('predict_*'), key=lambda place: (len(place.name), place.name), reverse=True)
    files = [place / name for place in ([finished] if finished else predictions)]
    return next((file for file in files if file.is_file()), None)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume a run from: that of the version with the highest number that has one."""
    checkpoints = [version / LAST_CHECKPOINT for version in versions(folder)]
    return next((path for path in reversed(checkpoints) if path.is_file()), None)


def find_grid(path: Path) -> Path:
    """A path as it is, or that of the shipped file of its name below ``experiments/`` if there is none."""
    shipped = SHIPPED / path
    return shipped if shipped.is_file() and not path.exists() else path


def _reason(log: Path) -> str:
    """The last error in a log, if it says one."""
    lines = log.read_text(errors='replace').splitlines() if log.is_file() else []
    errors = [line for line in lines if line.startswith('error: ')]
    return f' ({spell_out(errors[-1].removeprefix("error: "))})' if errors else ''


def main() -> None:
    """Trains the cells that are not finished, then prints and writes the tables of all finished ones."""
    parser = argparse.ArgumentParser(
        description=f'{__doc__}\n{grid_file.__doc__}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='All other arguments are passed on to every cell.',
        allow_abbrev=False,
    )
    parser.add_argument('grid', type=Path, help='YAML file, or the name of a shipped one')
    parser.add_argument('--jobs', type=int, default=1, help='number of runs at a time, with one thread each')
    parser.add_argument('--runs', type=Path, help='folder of the runs (default: runs/<name of the file>)')
    parser.add_argument(
        '--array', default='1/1', metavar='I/N', help='train what falls to task I of the N tasks of a job array'
    )
    parser.add_argument(
        '--cells', default='*', metavar='NAMES', help="train those with such names, as in --cells 'clip-*,vit-clean-*'"
    )
    parser.add_argument('--results', type=Path, help='folder of the results (default: <runs>/results)')
    options, extra = parser.parse_known_args()
    with short_errors(sys.argv), ended_by_signals('Stopped. The same command goes on from here.'):
        if options.jobs < 1:
            raise UsageError(f'--jobs must be at least 1, got {options.jobs}.')
        if given := [word for word in extra if word.partition('=')[0] in SET_BY_THE_GRID]:
            raise UsageError(f'{given[0]}: the grid sets this for each cell; leave it out.')
        if extra:
            check_options('fit', ['fit', *extra])
        task = read_task(options.array)
        grid = read_grid(find_grid(options.grid))
        cells = cells_of(grid, task) & choose_cells(grid.cells(), options.cells)
        check_commands(grid)
        runs = options.runs or Path('runs', options.grid.stem)
        train_all(grid, cells, runs, options.results or runs / 'results', extra, options.jobs)


def check_commands(grid: Grid) -> None:
    """Refuses a misspelled option of any cell before the first one is trained.

    Raises:
        UsageError: If a cell's command has an option or a file that does not exist.
    """
    for name, cell in {cell.name_without_seeds: cell for cell in grid.cells()}.items():
        subcommand, *arguments = grid.command(cell)
        try:
            check_options(subcommand, arguments)
        except UsageError as error:
            raise UsageError(f'{name}: {error}') from error


def train_all(grid: Grid, cells: Collection[Cell], runs: Path, results: Path, extra: Sequence[str], jobs: int) -> None:
    """Trains cells of a grid, then prints and writes its tables.

    Raises:
        SystemExit: If a cell failed.
        UsageError: If a folder cannot be written.
    """
    failed = []
    with ThreadPoolExecutor(jobs) as pool, Children() as children:
        for outcome in GridRunner(grid, runs, results, extra, children).run_all(pool, cells):
            print(f'{outcome.cell.name}: {outcome.text}', flush=True)
            failed += [outcome.cell.name] * (outcome.state == 'failed')
    print(write_report(grid, results))
    if failed:
        raise SystemExit(f'{len(failed)} of {len(cells)} cells failed: {", ".join(failed)}')


if __name__ == '__main__':
    main()
