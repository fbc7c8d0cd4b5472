"""``clipward optimize_patch``."""

from __future__ import annotations

import torch

from datamodules.attacks import Patch
from datamodules.attacks.triggers import Position
from datamodules.pairs import PairsDataModule
from experiments.surrogates.optimize_patch import make_patch
from experiments.tools.prepare import clean_surrogate
from lightning_modules.clip import CLIP


def optimize_patch(
    model: CLIP,
    datamodule: PairsDataModule,
    device: torch.device,
    target: str,
    file: str,
    size: int = 16,
    position: Position = 'center',
    margin: int = 0,
    steps: int = 1000,
    batch: int = 64,
    lr: float = 0.01,
    seed: int = 0,
    augment: bool = True,
    ckpt_path: str | None = None,
) -> None:
    """Make a patch that a model takes for a class, for the attack OptimizedPatch, as BadCLIP does.

    Args:
        model: The surrogate.
        datamodule: The pairs; attacks are left out.
        device: Where the model runs.
        target: Name of the class.
        file: The PNG file to write.
        size: Side of the patch in pixels of the stored image.
        position: Where the patch goes, as in the attack.
        margin: Pixels between patch and border, as in the attack.
        steps: Steps of Adam. BadCLIP takes about 7,800 with a learning rate of 0.001.
        batch: Images in a step.
        lr: Learning rate, in units of the range of a value.
        seed: Seed of the initial noise, of random positions, as in the attack, and of the images drawn.
        augment: Show the model the views that training sees, so that the patch withstands augmentation.
        ckpt_path: Checkpoint of the surrogate.
    """
    start = Patch(size, 'noise', position=position, margin=margin, seed=seed)
    surrogate = clean_surrogate(model, datamodule, ckpt_path, device)
    make_patch(surrogate, start, target, file, steps, batch, lr, augment)
