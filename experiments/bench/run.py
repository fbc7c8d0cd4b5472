"""Cost of the whole SafeCLIP run that is recommended for CIFAR-10, over CLIP's and over that of another checkout.

What is trained is the recipe, with its views, splits and canaries. Evaluation, figures and attacks are left out.
"""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from callbacks.ledger import FILE as LEDGER
from datamodules.pictures.scenes import CLASSES, compose, render
from datamodules.usage_error import UsageError, check_number
from experiments.bench import fit_clock
from experiments.bench.measure import Result
from experiments.bench.start import THIS_CHECKOUT
from experiments.child_processes import ended_by_signals

PAIRS, RECIPE_PAIRS = 2000, 10_000
FEWEST_PAIRS = 640  # ten batches
MIN_CANARIES = 80  # of each kind in the recipe
NAMES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
SIDE = 32
MAX_P = 0.05  # up to which a second stage keeps pairs, as grids/cifar10_retrain.yaml does
TURN = 2.0  # seconds
OPTIONS = ('--trainer.accelerator=cpu', '--trainer.limit_val_batches=0', '--callbacks.figures=null')  # of all runs
TARGETS = {'clip': 1.10, 'other': 0.75, 'retrain': 1.6}
CLOCK, LOG = 'clock.json', 'log.txt'
SCRIPT = Path(fit_clock.__file__)
CANARIES = ('place', 'patch', 'waves', 'copies', 'mark')  # of the recipe


class Cost(NamedTuple):
    """What a training loop took.

    Attributes:
        cpu: CPU seconds of its process.
        wall: Elapsed seconds of the turns that the process had meanwhile.
        shares: Safe share of each split.
    """

    cpu: float
    wall: float
    shares: tuple[float, ...]


class Job(NamedTuple):
    """A command to time.

    Attributes:
        checkout: Root folder of the checkout that runs it.
        config: File in its folder ``experiments``.
        options: Further options.
    """

    checkout: Path
    config: str
    options: tuple[str, ...] = ()


def measure(against: Path | None = None, pairs: int = PAIRS, pictures: Path | None = None) -> Iterator[Result]:
    """Trains CLIP and SafeCLIP, here and in another checkout, then CLIP on what SafeCLIP's ledger keeps.

    Args:
        against: The other checkout, run by the same interpreter with the same options; ``None`` for none.
        pairs: Number of pairs to train on.
        pictures: Folder as ``data.root`` takes it, with CIFAR-10's classes; drawn pictures if ``None``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = data_options(folder, pairs, pictures)
        clip = Job(THIS_CHECKOUT, 'clip_cifar10.yaml', data)
        jobs = {'clip': clip, 'safeclip': Job(THIS_CHECKOUT, 'safeclip_cifar10.yaml', (*data, *defense_options(pairs)))}
        if against is not None:
            jobs['other'] = jobs['safeclip']._replace(checkout=against.absolute())
        costs = train_in_turns(jobs, folder / 'first')
        ledger = only_file(folder / 'first' / 'safeclip', LEDGER)
        yield from compare(costs)
        second = {'clip': clip, 'retrain': clip._replace(options=(*data, *keep_options(ledger)))}
        yield from compare_retrain(costs, train_in_turns(second, folder / 'second'))


def compare(costs: Mapping[str, Cost]) -> Iterator[Result]:
    """Results of SafeCLIP over CLIP, and over the other checkout's if that was run."""
    safeclip = costs['safeclip']
    yield Result('CLIP, of one core', costs['clip'].cpu, 's')
    yield Result(f'SafeCLIP, of one core (safe: {describe_shares(safeclip)})', safeclip.cpu, 's')
    yield Result('SafeCLIP over CLIP', safeclip.cpu / costs['clip'].cpu, target=TARGETS['clip'])
    yield Result('… in elapsed time', safeclip.wall / costs['clip'].wall)
    if (other := costs.get('other')) is not None:
        yield Result(f'SafeCLIP in the other checkout, of one core (safe: {describe_shares(other)})', other.cpu, 's')
        yield Result('SafeCLIP over the other checkout', safeclip.cpu / other.cpu, target=TARGETS['other'])
        yield Result('… in elapsed time', safeclip.wall / other.wall)


def compare_retrain(first: Mapping[str, Cost], second: Mapping[str, Cost]) -> Iterator[Result]:
    """Results of SafeCLIP and a second stage, each over the CLIP that it took turns with."""
    stages = ((first['safeclip'], first['clip']), (second['retrain'], second['clip']))
    cpu = sum(cost.cpu / clip.cpu for cost, clip in stages)
    wall = sum(cost.wall / clip.wall for cost, clip in stages)
    kept = second['retrain'].cpu / second['clip'].cpu
    yield Result(f'CLIP on the pairs that the ledger keeps (p at most {MAX_P:g}), over CLIP', kept)
    yield Result('SafeCLIP and that, over CLIP', cpu, target=TARGETS['retrain'])
    yield Result('… in elapsed time', wall)


def describe_shares(cost: Cost) -> str:
    """The safe shares of a run's splits in words."""
    return ', '.join(f'{share:.2f}' for share in cost.shares)


# --- what is run ------------------------------------------------------------------------------------------------------


def data_options(folder: Path, pairs: int, pictures: Path | None) -> tuple[str, ...]:
    """Options of the data of all runs; draws the pictures into a folder if none are given."""
    root = folder / 'pictures' if pictures is None else pictures.absolute()
    if pictures is None:
        draw_pictures(root, pairs)
    return (f'--data.root={root}', f'--data.subset={pairs}', '--data.attacks=null')


def draw_pictures(root: Path, pairs: int) -> None:
    """Writes drawn scenes of ten classes, under the names of CIFAR-10's, as ``<root>/train/<class>/*.png``."""
    rng = np.random.default_rng(0)
    label = np.arange(math.ceil(pairs / len(NAMES)) * len(NAMES)) % len(NAMES)
    scenes = render(compose(label * (len(CLASSES) // len(NAMES)), rng), SIDE, rng)
    for part in ('train', 'test'):
        for name in NAMES:
            (root / part / name).mkdir(parents=True)
    for number, pixels in enumerate(scenes):
        for part in ('train', 'test') if number < len(NAMES) else ('train',):
            Image.fromarray(pixels).save(root / part / NAMES[label[number]] / f'{number}.png')


def defense_options(pairs: int) -> tuple[str, ...]:
    """Options of SafeCLIP here: as many canaries for each pair as in the recipe, and no end before the last epoch."""
    count = max(1, round(MIN_CANARIES * pairs / RECIPE_PAIRS))
    canaries = (f'--data.canaries.{name}.init_args.at_least={count}' for name in CANARIES)
    return ('--callbacks.repartition.on_distrust=go_on', *canaries)


def keep_options(ledger: Path) -> tuple[str, ...]:
    """Options of a second stage, which trains on what a ledger keeps."""
    return (f'--data.filters.ledger={{class_path: LedgerFilter, init_args: {{file: {ledger}, max_p: {MAX_P}}}}}',)


# --- running it -------------------------------------------------------------------------------------------------------


def train_in_turns(jobs: Mapping[str, Job], folder: Path) -> dict[str, Cost]:
    """Runs commands in turns of a few seconds each, so that a slow minute falls on all of them.

    Raises:
        RuntimeError: If one of them fails.
    """
    for name in jobs:
        (folder / name).mkdir(parents=True)
    runs: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with ended_by_signals('the runs are ended'):
            for name, job in jobs.items():
                runs[name] = start(job, folder / name)
            turns = take_turns(list(runs.values()))
            failed = [name for name, run in runs.items() if run.returncode]
    finally:
        for run in runs.values():
            run.kill()  # does nothing to one that has ended
            run.wait()
    for name in failed:
        raise RuntimeError(f'a run failed:\n{(folder / name / LOG).read_text(errors="replace")[-4000:]}')
    return {name: read_cost(folder / name, turns[number]) for number, name in enumerate(jobs)}


def start(job: Job, folder: Path) -> subprocess.Popen[bytes]:
    """Starts a command, with one thread."""
    arguments = [
        f'--config={job.checkout / "experiments" / job.config}', *job.options, f'--data.cache_dir={folder / "cache"}',
        f'--trainer.default_root_dir={folder / "runs"}', *OPTIONS,
    ]  # fmt: skip
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'disabled', 'CUDA_VISIBLE_DEVICES': ''}
    environment.pop('PYTHONPATH', None)  # the checkout's own files
    with open(folder / LOG, 'wb') as log:
        command = [sys.executable, str(SCRIPT), str(folder / CLOCK), 'fit', *arguments]
        return subprocess.Popen(command, cwd=job.checkout, env=environment, stdout=log, stderr=subprocess.STDOUT)


def take_turns(runs: Sequence[subprocess.Popen[bytes]]) -> list[list[tuple[float, float]]]:
    """Lets one process run at a time until all have ended, or one has failed.

    Returns:
        Beginning and end of the turns of each process, in seconds of the monotonic clock.
    """
    turns: list[list[tuple[float, float]]] = [[] for _ in runs]
    for run in runs:
        run.send_signal(signal.SIGSTOP)
    while any(run.poll() is None for run in runs) and not any(run.returncode for run in runs):
        for number, run in enumerate(runs):
            began = time.monotonic()
            run.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                run.wait(TURN)
            run.send_signal(signal.SIGSTOP)
            turns[number].append((began, time.monotonic()))
    return turns


def read_cost(folder: Path, turns: Sequence[tuple[float, float]]) -> Cost:
    """What the training loop of a run took, of the turns that it had."""
    clock = json.loads((folder / CLOCK).read_text())
    wall = sum(max(0.0, min(end, clock['ended']) - max(began, clock['began'])) for began, end in turns)
    with only_file(folder, 'metrics.csv').open(newline='') as file:
        shares = [line['partition/share'] for line in csv.DictReader(file) if line.get('partition/share')]
    return Cost(clock['cpu'], wall, tuple(map(float, shares)))


def only_file(folder: Path, name: str) -> Path:
    """The file of that name in a folder of a single run."""
    (file,) = folder.rglob(name)
    return file


def check(pairs: int, pictures: Path | None) -> None:
    """Refuses options that no run could use.

    Raises:
        UsageError: For fewer pairs than a run needs, or a folder without pictures.
    """
    check_number('--pairs', pairs, f'[{FEWEST_PAIRS}, inf)')
    if pictures is not None and not (pictures / 'train').is_dir():
        raise UsageError(f'--pictures={pictures} has no folder train: give a folder as data.root takes it.')
