"""Hands figures to the loggers that show pictures."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image


def send_figure(trainer: L.Trainer, key: str, path: Path, shows_pairs: bool = False) -> None:
    """Logs a PNG file with W&B and TensorBoard, at the step that has been reached.

    Args:
        trainer: The trainer, with its loggers.
        key: Name of the figure.
        path: The file.
        shows_pairs: Whether it shows pictures and captions, which a W&B logger with ``log_data=False`` does not get.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            if shows_pairs and not getattr(logger, 'log_data', True):
                continue
            logger.log_image(key, [str(path)], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert('RGB'))
            logger.experiment.add_image(key, pixels, max(0, trainer.global_step - 1), dataformats='HWC')  # as metrics
