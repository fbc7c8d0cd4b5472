"""Runs of the command that die, or find the disk full, before any chosen change of a file or at any time."""

from __future__ import annotations

import csv
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow.parquet as pq

from callbacks.ledger import FILE as LEDGER
from experiments import cli, command_line  # noqa: F401 (imported before the processes are forked)
from experiments.run_folder import DONE
from experiments.run_results import read_run
from tests.experiments.conftest import EXPERIMENTS, SMALL
from tests.integration.processes import run_in_processes
from tests.integration.runs import kill_self, load_outcome

WRITES = os.O_WRONLY | os.O_RDWR
FULL = 100  # bytes that a file may still have when the disk counts as full


class End(NamedTuple):
    """How a run ends before its time.

    Attributes:
        kind: Killed before a change of a file, killed after a time, or a disk that is full from a change on.
        when: Number of the change, counted from 0, or seconds.
    """

    kind: Literal['change', 'time', 'full']
    when: float


class Changes:
    """Counts the changes of files below a folder that Python is about to make, and ends the run at one of them."""

    def __init__(self, folder: Path, end: End | None) -> None:
        self.folder, self.end, self.count = str(folder), end, 0
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ('os.rename', 'os.remove', 'os.mkdir') or (event == 'open' and arguments[2] & WRITES)
        if changes and str(arguments[0]).startswith(self.folder):
            if self.end and self.end.kind != 'time' and self.count == self.end.when:
                kill_self() if self.end.kind == 'change' else fill_disk()
            self.count += 1


def fill_disk() -> None:
    """Makes every write fail that would make a file larger, also those of libraries."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, resource.RLIM_INFINITY))


def run_command(folder: Path, end: End | None, arguments: tuple[str, ...]) -> None:
    """Job for a separate process: ``clipward`` with the smallest toy experiment in ``<folder>/runs/toy``."""
    os.environ['WANDB_MODE'] = 'disabled'
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # which pytest may have made files
        os.dup2(quiet, stream)
    changes = Changes(folder / 'runs', end)
    if end and end.kind == 'time':
        signal.setitimer(signal.ITIMER_REAL, end.when)  # kills, as nobody handles the signal
    where = [f'--trainer.default_root_dir={folder}/runs', f'--data.cache_dir={folder}/cache', '--name=toy']
    small = [*SMALL, '--model.architecture=tiny_toy.json', '--trainer.max_epochs=4']
    try:
        cli.main(['fit', '--config', str(EXPERIMENTS / 'safeclip_toy.yaml'), *small, *where, *arguments])
        (folder / 'changes').write_text(str(changes.count))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def start(folder: Path, end: End | None, *arguments: str) -> int | None:
    """Runs :func:`run_command` and returns its exit status."""
    folder.mkdir(exist_ok=True)
    return run_in_processes(run_command, folder, end, arguments)[0]


def read_outcome(run: Path) -> dict[str, Any]:
    """All that two runs of one command have in common, down to the last bit."""
    with open(run / 'metrics.csv', newline='') as file:
        lines = [{name: value for name, value in line.items() if 'cost/' not in name} for line in csv.DictReader(file)]
    outcome = {'checkpoint': load_outcome(run), 'metrics': lines, 'ledger': pq.read_table(run / LEDGER).to_pydict()}
    result = read_run(run)  # what `experiments.report` makes its rows of
    assert result is not None
    return {
        **outcome,
        'report': {name: points for name, points in result.series.items() if not name.startswith('cost/')},
        'caveat': result.caveat,
        'done': (run / DONE).exists(),
        'files': dict.fromkeys(str(path.relative_to(run)) for path in run.rglob('*')),
    }
