"""``clipward inspect``."""

from __future__ import annotations

from pathlib import Path

import torch

from callbacks.figure_files import save_figure
from datamodules.files.atomic import make_folder, write_text
from datamodules.pairs import PairsDataModule
from experiments.inspection import classify_with, describe, draw, format_json, inspect_model, judge, read_clean_pictures
from experiments.surrogates.surrogate import load_trained
from lightning_modules.clip import CLIP


def inspect(
    model: CLIP,
    datamodule: PairsDataModule,
    device: torch.device,
    folder: str | None = None,
    file: str | None = None,
    sheet: str | None = None,
    pictures: int = 200,
    patch: float = 0.25,
    perturbation: float = 4.0,
    steps: int = 200,
    batch: int = 8,
    seed: int = 0,
    ckpt_path: str | None = None,
) -> None:
    """Say whether a trained model looks backdoored, by the triggers that can be found for each of its classes.

    Args:
        model: The model. Without --config, model and data are those of the run that the checkpoint lies in.
        datamodule: Gives the classes, the prompts and, unless a folder does, clean pictures: some of the held-out ones.
        device: Where the model runs.
        folder: Folder of clean pictures, of whatever classes.
        file: The JSON file to write all figures to.
        sheet: The PNG file to draw the triggers in that stand out most.
        pictures: Clean pictures to use, at most: half to make triggers on, half to measure them on.
        patch: Side of the patch that is looked for, as a share of the side of a picture.
        perturbation: Root mean square of the perturbation that is looked for, in units of 1/255.
        steps: Steps of each search.
        batch: Pictures of a step for each class.
        seed: Seed of all draws.
        ckpt_path: Checkpoint of the model.
    """
    for path in filter(None, (file, sheet)):  # refused now, not after minutes
        make_folder(Path(path).parent)
    surrogate = classify_with(load_trained(model, ckpt_path, device), datamodule)
    clean = read_clean_pictures(datamodule, folder, pictures, seed)
    inspection = inspect_model(surrogate, clean, patch, perturbation, steps, batch, seed)
    print(describe(judge(inspection.findings), len(datamodule.classes)), flush=True)
    if file:
        write_text(file, format_json(inspection))
    if sheet:
        save_figure(draw(inspection), Path(sheet))
