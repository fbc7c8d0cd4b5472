"""Runs jobs in separate processes, which can be killed or be the ranks of one run.

They are forked from a server that has imported everything, because importing takes seconds.
"""

from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

TIMEOUT_SECONDS = 900


def run_in_processes(job: Callable[..., None], folder: Path, *arguments: Any, ranks: int = 1) -> list[int | None]:
    """Runs ``job(folder, *arguments)`` in processes that connect to each other as the ranks of a Lightning run.

    Args:
        job: A function at the top level of a module.
        folder: Folder of its results; a traceback goes to ``<rank>.txt``.
        arguments: Further arguments of the job.
        ranks: Number of processes.

    Returns:
        Exit status of each process, negative after a signal.
    """
    context = get_context('forkserver')
    context.set_forkserver_preload(['tests.integration.runs', 'tests.integration.kills'])
    port = free_port()
    children = [
        context.Process(target=_run_job, args=(job, folder, arguments, rank, ranks, port)) for rank in range(ranks)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(TIMEOUT_SECONDS)
        child.kill()
        child.join()
    return [child.exitcode for child in children]


def free_port() -> int:
    """Finds a port that is not in use."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def read_tracebacks(folder: Path) -> str:
    """Reads the tracebacks of failed processes, for the message of an assertion."""
    return '\n'.join(path.read_text() for path in sorted(folder.glob('*.txt')))


def _run_job(
    job: Callable[..., None], folder: Path, arguments: tuple[Any, ...], rank: int, ranks: int, port: int
) -> None:
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    try:
        job(folder, *arguments)
    except BaseException:
        (folder / f'{rank}.txt').write_text(traceback.format_exc())
        raise
