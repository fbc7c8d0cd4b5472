"""Grids that are killed, and grids that share their folders. ``GRID_KILLS`` sets the number of kills, 2 if unset."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from experiments.grid import LAST_CHECKPOINT
from experiments.result_files import load
from experiments.results import Result
from experiments.run_folder import DONE
from experiments.run_results import TRAINING_COSTS
from tests.experiments.conftest import EXPERIMENTS, SMALL

KILLS = int(os.environ.get('GRID_KILLS', '2'))
ROOT = EXPERIMENTS.parent
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
RESULTS, CELLS = 3, 4  # one cell only scores

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == 'nt', reason='signals of Unix')]


@pytest.fixture(scope='module')
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid file whose cells train in seconds."""
    file = tmp_path_factory.mktemp('grid') / 'small.yaml'
    shared = [f'--data.cache_dir={file.parent}/cache', *(word for word in SMALL if 'unimodal' not in word)]
    trusted = [f'--callbacks.repartition.{bound}=1' for bound in ('max_leak', 'max_later_leak')]  # so few pairs are not
    content = {
        'methods': {
            'clip': ['--config=clip_toy.yaml', *shared],
            'safeclip': ['--config=safeclip_toy.yaml', *shared, '--model.unimodal_epochs=1', *trusted],
            'retrain': {'ledger': 'safeclip', 'arguments': ['--config=clip_toy.yaml', *shared]},
            'scores': {'predict': 'retrain', 'arguments': ['--config=clip_toy.yaml', *shared]},
        },
        'seeds': [1],
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope='module')
def undisturbed(grid: Path) -> tuple[dict[str, Result], float]:
    """The results of the grid, and the seconds that it took."""
    start = time.monotonic()
    assert run_grid(grid, 'undisturbed').wait() == 0
    return results(grid, 'undisturbed'), time.monotonic() - start


def run_grid(grid: Path, folder: str, *extra: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, '-m', 'experiments.grid', str(grid), f'--runs={grid.parent / folder}', *extra]
    with open(grid.parent / f'{folder}.txt', 'ab') as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def results(grid: Path, folder: str) -> dict[str, Result]:
    """Results by cell, without what was timed and where they were read from."""
    files = sorted((grid.parent / folder / 'results').glob('*.json'))
    return {file.name: without_time(load(file)) for file in files}


def without_time(result: Result) -> Result:
    series = {metric: points for metric, points in result.series.items() if not metric.startswith('cost/')}
    epochs_timed = [len(result.series.get(metric, [])) for metric in TRAINING_COSTS]
    return replace(result, series=series, seconds=sum(epochs_timed), source='')


def count_done(grid: Path, folder: str) -> int:
    return len(list((grid.parent / folder).glob(f'*/version_*/{DONE}')))


def running(grid: Path, folder: str) -> Iterator[int]:
    """Processes of the runs of a grid."""
    for process in Path('/proc').glob('[0-9]*'):
        try:
            words = (process / 'cmdline').read_bytes().decode(errors='replace').split('\0')
        except OSError:
            continue
        if 'experiments.cli' in words and f'--trainer.default_root_dir={grid.parent / folder}' in words:
            yield int(process.name)


@pytest.mark.parametrize('number', range(KILLS))
def test_a_killed_grid_goes_on_to_the_same_results(
    number: int, grid: Path, undisturbed: tuple[dict[str, Result], float]
) -> None:
    expected, seconds = undisturbed
    folder, request = f'killed_{number}', SIGNALS[number % len(SIGNALS)]
    process = run_grid(grid, folder)
    time.sleep(random.Random(number).uniform(0.2, 0.95) * seconds)
    process.send_signal(request)
    status, left = process.wait(), list(running(grid, folder))
    if request is signal.SIGKILL:
        assert len(left) <= 1  # the run goes on, and the next grid waits for it
    else:
        assert not left and status in (0, 128 + request, -request)  # -request: while it was imported
    assert run_grid(grid, folder).wait() == 0
    assert results(grid, folder) == expected and len(expected) == RESULTS
    assert count_done(grid, folder) == RESULTS
    assert (grid.parent / folder / 'results/table.md').exists()
    assert [*(grid.parent / folder).glob('scores-*/predict_*/ledger.parquet')]


def test_a_grid_killed_in_its_second_stage_goes_on_to_the_same_results(
    grid: Path, undisturbed: tuple[dict[str, Result], float]
) -> None:
    expected, seconds = undisturbed
    process = run_grid(grid, 'second_stage')
    second = grid.parent / 'second_stage/retrain-d1-t1/version_0'
    deadline = time.monotonic() + 3 * seconds
    while not (second / LAST_CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert (second / LAST_CHECKPOINT).exists() and not (second / DONE).exists()
    assert run_grid(grid, 'second_stage').wait() == 0
    assert results(grid, 'second_stage') == expected


def test_two_grids_that_start_together_run_each_cell_once(
    grid: Path, undisturbed: tuple[dict[str, Result], float]
) -> None:
    expected, _ = undisturbed
    both = [run_grid(grid, 'shared') for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert results(grid, 'shared') == expected
    assert len(list((grid.parent / 'shared').glob('*/version_*'))) == count_done(grid, 'shared') == RESULTS
    told = (grid.parent / 'shared.txt').read_text()
    assert told.count(': done\n') == CELLS and told.count(': already done\n') == CELLS
    first, second = told.split('| attack |')[1:]
    assert second.startswith(first.split('\n\n')[0])  # both tables are whole
