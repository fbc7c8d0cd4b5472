from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest
from torch.utils.data import DataLoader

from datamodules.files.workers import end_with_run, worker_options


def load(pipe: Connection) -> None:
    """Starts a loader with a worker, reports the worker's process and waits to be killed."""
    how: Any = {'multiprocessing_context': 'forkserver', 'worker_init_fn': end_with_run}
    workers: Any = iter(DataLoader(range(9), num_workers=1, **how))
    next(workers)
    pipe.send([worker.pid for worker in workers._workers])
    time.sleep(60)


def test_a_worker_ends_with_a_killed_run() -> None:
    context = multiprocessing.get_context('forkserver')
    ours, theirs = context.Pipe()
    run = context.Process(target=load, args=(theirs,))
    run.start()
    (worker,) = ours.recv()
    os.kill(run.pid or 0, signal.SIGKILL)
    run.join()
    deadline = time.monotonic() + 10
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux forks')
def test_workers_share_the_memory_of_the_run() -> None:
    loader = DataLoader(range(9), **worker_options(1))
    context: Any = loader.multiprocessing_context
    assert context.get_start_method() == 'fork'
    assert list(DataLoader([4, 5], batch_size=None, **worker_options(0))) == [4, 5]


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f'/proc/{process}/stat') as file:
        return file.read().rpartition(')')[2].split()[0] != 'Z'
