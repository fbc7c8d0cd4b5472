"""``clipward harden``."""

from __future__ import annotations

import torch

from datamodules.pairs import PairsDataModule
from experiments.surrogates.harden import make_hardened, remove_trigger
from experiments.surrogates.surrogate import Surrogate, load_trained
from experiments.tools.prepare import prepare_data_for
from lightning_modules.adversarial import Norm
from lightning_modules.clip import CLIP


def harden(
    model: CLIP,
    datamodule: PairsDataModule,
    device: torch.device,
    attack: str,
    file: str | None = None,
    norm: Norm = 'linf',
    radius: float | None = None,
    step: float | None = None,
    steps: int = 100,
    ckpt_path: str | None = None,
) -> None:
    """Make the pictures of a label-consistent attack harder to recognize, for the file that the attack reads.

    Args:
        model: The surrogate, whose predictions on the pictures are to become wrong. BackdoorBench takes one that was
            trained to withstand such changes.
        datamodule: The pairs, with the attack.
        device: Where the model runs.
        attack: Name, in data.attacks, of a LabelConsistent with harden: pgd.
        file: The .npz file to write; if null, the attack's own ``hardened``.
        norm: What bounds the change of a picture: ``linf``, the change of each value, or ``l2``, the Euclidean length
            of all changes.
        radius: The bound: for ``linf`` in units of 1/255; for ``l2`` in units of 1, where values lie in [0, 1].
            If null, 8, as in BackdoorBench, or 300/255, as in Turner et al. for pictures of 32 pixels. At 224
            pixels the same change of each value is seven times as long.
        step: Length of a step in the same units; if null, 1.5/8 of the radius, as in BackdoorBench.
        steps: Number of steps.
        ckpt_path: Checkpoint of the surrogate.
    """
    surrogate, attack_file = load_trained(model, ckpt_path, device), remove_trigger(datamodule, attack)
    data = prepare_data_for(model, datamodule)
    make_hardened(Surrogate(surrogate, data), attack, file or attack_file, norm, radius, step, steps)
