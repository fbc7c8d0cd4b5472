"""Runs whose processes believe to be on two machines, also of the command, of which one process may be killed."""

from __future__ import annotations

import os
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from experiments import cli
from experiments.interrupts import quiet_signals
from tests.experiments.conftest import EXPERIMENTS, SMALL
from tests.integration.processes import run_in_processes, slurm_environment
from tests.integration.ranks import Gradients, results_of
from tests.integration.runs import Killer, Place, run

NODES = 2


class Signal(Killer):
    """Sends a signal to one process in training; for config files.

    Args:
        number: The signal.
        rank: The process.
        epoch: Epoch, counted from 0.
        batch: Batch of the epoch.
    """

    def __init__(self, number: int, rank: int, epoch: int = 2, batch: int = 1) -> None:
        super().__init__(Place('training', epoch, batch), lambda: os.kill(os.getpid(), number))
        self.rank = rank

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.global_rank != self.rank:
            self.place = self.place._replace(epoch=-1)


def train(folder: Path) -> None:
    """Job: the whole run on this process of four, whose results go into ``<rank>.pt``."""
    watch = Gradients()
    finished = run(folder, watch=[watch], strategy='ddp', devices=2, num_nodes=NODES)
    results = {**results_of(finished), 'losses': watch.losses, 'local_rank': finished.trainer.local_rank}
    torch.save(results, folder / f'{finished.trainer.global_rank}.pt')
    torch.distributed.barrier()  # the others are connected to the first, which must not exit early


def fit(folder: Path, *arguments: str) -> None:
    """Job: ``clipward`` with the smallest toy experiment; what it prints goes into ``<rank>.log``.

    Args:
        folder: Folder of all that it writes.
        arguments: Further options, in which ``RANK`` stands for the number of the process.
    """
    os.environ['WANDB_MODE'], rank = 'disabled', os.environ['SLURM_PROCID']
    log = os.open(folder / f'{rank}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    where = [f'--trainer.default_root_dir={folder}/runs', f'--data.cache_dir={folder}/cache', '--name=toy']
    small = [*SMALL, '--model.architecture=tiny_toy.json', '--trainer.max_epochs=4', '--ckpt_path=auto']
    cluster = ['--trainer.strategy=ddp', '--trainer.devices=1', f'--trainer.num_nodes={NODES}']
    added = [argument.replace('RANK', rank) for argument in arguments]
    with quiet_signals(SIGTERMException):
        cli.main(['fit', '--config', str(EXPERIMENTS / 'safeclip_toy.yaml'), *small, *cluster, *where, *added])


def fit_on_two_nodes(folder: Path, *arguments: str) -> list[int | None]:
    """Runs :func:`fit` on two nodes of a process each and returns their exit statuses."""
    folder.mkdir(exist_ok=True)
    return run_in_processes(fit, folder, *arguments, ranks=NODES, per_node=1, environment=slurm_environment)
