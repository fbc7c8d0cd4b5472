"""Hands figures to the loggers that show pictures."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image


def send_figure(trainer: L.Trainer, key: str, path: Path) -> None:
    """Logs a PNG file with W&B and TensorBoard, at the step that has been reached."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [str(path)], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert('RGB'))
            logger.experiment.add_image(key, pixels, max(0, trainer.global_step - 1), dataformats='HWC')  # as metrics
