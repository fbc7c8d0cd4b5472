"""``clipward export``."""

from __future__ import annotations

from pathlib import Path

from datamodules.export import Form
from datamodules.export import export as write_pairs
from datamodules.files.writers import require_empty
from datamodules.pairs import PairsDataModule
from experiments.tools.prepare import prepare_data_for
from lightning_modules.clip import CLIP


def export(model: CLIP, datamodule: PairsDataModule, folder: str, form: Form = 'csv') -> None:
    """Write the poisoned pairs, and what it takes to measure the attacks, as files for other code.

    Args:
        model: The pairs are prepared for its image size and context length.
        datamodule: The pairs.
        folder: Folder to write to; must be empty or not exist.
        form: ``csv`` with a PNG for each picture, or ``webdataset`` shards.
    """
    target = require_empty(Path(folder))  # fails before hours of decoding
    count = write_pairs(prepare_data_for(model, datamodule), target, form)
    print(f'{count:,} pairs in {folder}', flush=True)
