"""``clipward check_attacks``."""

from __future__ import annotations

import torch

from datamodules.pairs import PairsDataModule
from experiments.check.attack_check import PICTURES, VIEWS, print_report
from experiments.surrogates.surrogate import load_trained
from experiments.tools.prepare import prepare_data_for
from lightning_modules.clip import CLIP


def check_attacks(
    model: CLIP,
    datamodule: PairsDataModule,
    device: torch.device,
    epochs: int,
    file: str | None = None,
    sheet: str | None = None,
    pictures: int = PICTURES,
    views: int = VIEWS,
    ckpt_path: str | None = None,
) -> None:
    """Say of each attack what it does, whether it is likely to work, and what to do if not.

    Args:
        model: The pairs are prepared for its image size and context length. With trained weights, best of the same
            run without poison (data.poison: false), the report also says what such a model sees in the attack.
        datamodule: The pairs, with the attacks.
        device: Where the model runs.
        epochs: Epochs of the run that is planned.
        file: The JSON file to write all figures to.
        sheet: The PNG file to draw a poison of each attack in, without and with its trigger, and two of its views.
        pictures: Poisons of each attack to look at, at most.
        views: Epochs whose views of them to look at.
        ckpt_path: Checkpoint of the model.
    """
    has_weights = ckpt_path is not None or not model.untrained
    trained_model = load_trained(model, ckpt_path, device) if has_weights else None
    print_report(prepare_data_for(model, datamodule), trained_model, epochs, pictures, views, file, sheet)
