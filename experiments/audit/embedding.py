"""Scores and embeds pairs as ``predict`` does, without a run folder."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch

from callbacks.ledger import FILE, ScoreLedger
from datamodules.pairs import PairsDataModule
from lightning_modules.clip import CLIP


def embed(model: CLIP, data: PairsDataModule, device: torch.device, folder: Path) -> Path:
    """Writes ``ledger.parquet``, ``image.npy`` and ``text.npy``, and sets up the data.

    Args:
        model: A trained model.
        data: The pairs, not set up.
        device: Where the model runs.
        folder: Folder of the files; created if it is missing.

    Returns:
        The ledger.
    """
    trainer = L.Trainer(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == 'cuda' else 1,
        callbacks=[ScoreLedger(embeddings=True)],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.predict(model, datamodule=data, return_predictions=False)
    return folder / FILE
