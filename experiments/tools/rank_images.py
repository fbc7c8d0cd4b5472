"""``clipward rank_images``."""

from __future__ import annotations

import torch

from datamodules.pairs import PairsDataModule
from datamodules.rows.table import Origin
from experiments.surrogates.rank_images import rank
from experiments.tools.prepare import clean_surrogate
from lightning_modules.clip import CLIP


def rank_images(
    model: CLIP,
    datamodule: PairsDataModule,
    device: torch.device,
    target: str,
    file: str,
    source: Origin = 'heldout',
    ckpt_path: str | None = None,
) -> None:
    """List images by how similar a model finds them to a class, for the option ranking of backdoors.

    Args:
        model: The surrogate.
        datamodule: The pairs; attacks are left out.
        device: Where the model runs.
        target: Name of the class.
        file: The CSV file to write, the most similar images first.
        source: Table of the images, as in the attack.
        ckpt_path: Checkpoint of the surrogate.
    """
    rank(clean_surrogate(model, datamodule, ckpt_path, device), target, source, file)
