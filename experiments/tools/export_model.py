"""``clipward export_model``."""

from __future__ import annotations

from pathlib import Path

from datamodules.files.writers import require_empty
from experiments.checkpoint_choice import run_of
from experiments.exported_model import write_model
from experiments.model_card import model_card
from experiments.surrogates.surrogate import read_weights
from lightning_modules.clip import CLIP


def export_model(model: CLIP, out: str, ckpt_path: str | None = None) -> None:
    """Write a trained model as a folder that open_clip opens, with a model card.

    Args:
        model: The model. Without --config, it is that of the run that the checkpoint lies in.
        out: Folder to write to; must be empty or not exist.
        ckpt_path: Checkpoint of the model. The card says what the run that it lies in has measured.
    """
    folder = require_empty(Path(out), 'out')
    checkpoint = read_weights(model, ckpt_path)
    run = None if ckpt_path is None else run_of(Path(ckpt_path))
    write_model(model, folder, model_card(folder.resolve().name, model, checkpoint, run))
    print(f"{folder}: open it by open_clip.create_model_and_transforms('local-dir:{folder}').", flush=True)
