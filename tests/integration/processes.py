"""Runs jobs in separate processes, which can be killed or be the ranks of one run.

They are forked from a server that has imported everything, because importing takes seconds.
"""

from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

TIMEOUT_SECONDS = 900


class Launch(NamedTuple):
    """The process that a launcher starts.

    Attributes:
        rank: Its number among all processes.
        ranks: Number of all processes.
        per_node: Number of processes on a node.
        port: Port on which the first process is reached.
    """

    rank: int
    ranks: int
    per_node: int
    port: int

    @property
    def node(self) -> int:
        return self.rank // self.per_node

    @property
    def local_rank(self) -> int:
        return self.rank % self.per_node


Environment = Callable[[Launch], Mapping[str, object]]


def lightning_environment(launch: Launch) -> dict[str, object]:
    """What Lightning sets for the processes that it starts on one machine."""
    several = {'LOCAL_RANK': launch.local_rank, 'NODE_RANK': launch.node, **_place(launch)}
    return several if launch.ranks > 1 else {}


def slurm_environment(launch: Launch) -> dict[str, object]:
    """What SLURM sets for the tasks that ``srun`` starts, as far as anybody here reads it."""
    nodes = launch.ranks // launch.per_node
    return {
        'SLURM_JOB_ID': 42, 'SLURM_JOB_NAME': 'train', 'SLURM_NODELIST': 'node[1-2]', 'SLURM_NNODES': nodes,
        'SLURM_NTASKS': launch.ranks, 'SLURM_NTASKS_PER_NODE': launch.per_node, 'SLURM_PROCID': launch.rank,
        'SLURM_LOCALID': launch.local_rank, 'SLURM_NODEID': launch.node, **_place(launch),
    }  # fmt: skip


def torchrun_environment(launch: Launch) -> dict[str, object]:
    """What ``torchrun`` sets for the processes that it starts."""
    return {
        'RANK': launch.rank, 'WORLD_SIZE': launch.ranks, 'LOCAL_RANK': launch.local_rank, 'GROUP_RANK': launch.node,
        'LOCAL_WORLD_SIZE': launch.per_node, 'TORCHELASTIC_RUN_ID': 'none', **_place(launch),
    }  # fmt: skip


def _place(launch: Launch) -> dict[str, object]:
    return {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': launch.port}


def run_in_processes(
    job: Callable[..., None],
    folder: Path,
    *arguments: Any,
    ranks: int = 1,
    per_node: int | None = None,
    environment: Environment = lightning_environment,
) -> list[int | None]:
    """Runs ``job(folder, *arguments)`` in processes that connect to each other as the ranks of a Lightning run.

    Args:
        job: A function at the top level of a module.
        folder: Folder of its results; a traceback goes to ``<rank>.txt``.
        arguments: Further arguments of the job.
        ranks: Number of processes.
        per_node: Number of them that believe to be on one node; all by default.
        environment: Variables that a launcher would set for each.

    Returns:
        Exit status of each process, negative after a signal.
    """
    context = get_context('forkserver')
    context.set_forkserver_preload(['tests.integration.runs', 'tests.integration.kills'])
    port = free_port()
    launches = [Launch(rank, ranks, per_node or ranks, port) for rank in range(ranks)]
    children = [
        context.Process(target=_run_job, args=(job, folder, arguments, launch.rank, environment(launch)))
        for launch in launches
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
    job: Callable[..., None], folder: Path, arguments: tuple[Any, ...], rank: int, environment: Mapping[str, object]
) -> None:
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    os.environ.update({name: str(value) for name, value in environment.items()})
    try:
        job(folder, *arguments)
    except BaseException:
        (folder / f'{rank}.txt').write_text(traceback.format_exc())
        raise
