"""How a run behaves as a job of SLURM, and without anything that starts it on several machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from datamodules.usage_error import UsageError


def with_slurm(plugins: Sequence[Any]) -> list[Any]:
    """Adds SLURM's environment, without what Lightning would do on its signal, unless the plugins have one.

    That is to save a checkpoint in the middle of an epoch, which does not resume to the same result, under a name that
    all runs below ``trainer.default_root_dir`` share: whichever starts next in a job without ``ckpt_path`` would go on
    from it. Jobs of ours go on from the end of their last epoch, with ``ckpt_path=auto``.
    """
    is_given = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if is_given or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return [*plugins]
    return [*plugins, SLURMEnvironment(auto_requeue=False)]


def refuse_checkpoints_of_others(root: str | None) -> None:
    """Refuses a folder from which Lightning would load the weights of another run, in a job of SLURM and unasked.

    Args:
        root: ``trainer.default_root_dir``; ``None`` for the working directory.

    Raises:
        UsageError: If such a checkpoint is there.
    """
    left = sorted(Path(root or '.').glob('hpc_ckpt_*.ckpt')) if SLURMEnvironment.detect() else []
    if left:
        raise UsageError(
            f'{left[-1]} is what another run saved when its job of SLURM ended, and Lightning would go on from it: '
            f'move it elsewhere, or set another trainer.default_root_dir.'
        )


def check_launch(trainer: L.Trainer) -> None:
    """Refuses a run on several machines whose processes do not know each other: it would wait for them without a word.

    Raises:
        UsageError: If nothing has said where the first machine is, as ``srun`` and ``torchrun`` do.
    """
    environment = getattr(trainer.strategy, 'cluster_environment', None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and 'MASTER_ADDR' not in os.environ:
        raise UsageError(
            f'trainer.num_nodes={trainer.num_nodes} needs processes on every machine: start the command with srun or '
            f'torchrun, see docs/scale.md, or set trainer.num_nodes=1.'
        )
