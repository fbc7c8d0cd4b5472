"""Disk and memory that the noise of MEM takes for all 566,435 pairs of COCO at 224 pixels, one for each pair."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from datamodules.files.atomic import write_text
from datamodules.pictures.noise_store import SIDECAR, NoiseStore, StoreSettings
from datamodules.rows.rounds import plan_round
from experiments.bench.measure import Memory, Result, resident_memory

ROWS, SIZE = 566_435, 224  # the training pairs of MEM's paper on COCO
EPS, TRIGGER_LENGTH = 8, 3
BATCH, BATCHES = 128, 16  # of a sweep, whose pages alone take space on disk
MAX_MEGABYTES = 2000
MEGABYTE, GIGABYTE = 1e6, 1e9


def measure() -> Iterator[Result]:
    """Opens a store of that size, whose files are sparse, and reads and writes the first batches of a sweep."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_sparse(Path(folder, 'noise'))
        size = sum(path.stat().st_size for path in store.folder.iterdir())
        with Memory(0, resident_memory) as memory:
            sweep(store)
    pairs = f'{ROWS:,} pairs at {SIZE} pixels'
    yield Result(f'noise of {pairs} on disk, in two copies', size / GIGABYTE, 'GB')
    yield Result('memory of the process that sweeps over it', memory.peak / MEGABYTE, 'MB', target=MAX_MEGABYTES)


def make_sparse(folder: Path) -> NoiseStore:
    """Makes a store whose noise takes no space on disk until it is written."""
    settings = StoreSettings('MEM', 'none', 1, EPS, 'row', TRIGGER_LENGTH, 'start', 'none', 0)
    rows = np.arange(ROWS)
    NoiseStore.create(folder, settings, rows, np.ones(ROWS), np.zeros((ROWS, TRIGGER_LENGTH)))
    for number in (0, 1):
        np.lib.format.open_memmap(folder / f'noise_{number}.npy', 'w+', np.int8, (ROWS, 3, SIZE, SIZE))
    sidecar = json.loads((folder / SIDECAR).read_text('utf-8'))
    write_text(folder / SIDECAR, json.dumps({**sidecar, 'size': SIZE}))
    return NoiseStore.open(folder)


def sweep(store: NoiseStore) -> None:
    """Moves the noise of the first batches of a round by a level, as a step does."""
    store.begin(0)
    for rows in islice(plan_round(store.unit, BATCH, 0, in_passes=True, seed=0, number=0), BATCHES):
        noise, trigger = store.noise(store.unit[rows]), store.trigger(rows)
        store.write(rows, noise + np.int8(1), trigger)
        store.mark_written(rows)
    store.flush()
