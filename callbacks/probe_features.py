"""Features that probes are trained on: what the image tower makes of clean pictures, computed once for its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from callbacks.probe_recipes import Features
from datamodules.contracts import truth_of
from datamodules.evaluation.sets import EvaluationSet
from datamodules.files.array_cache import stored_array
from lightning_modules.clip import CLIP


class ImageFeatures:
    """Maps an evaluation set to the output of the image tower for its pictures, not scaled to unit norm.

    The model must be in evaluation mode and without gradients, as :func:`callbacks.measuring.measuring` leaves it.

    Args:
        trainer: The trainer. Each process computes its share.
        module: The model.
        stored: Keep features in files, named after weights and pictures, and read those that are there already. The
            weights of a training run never come again, so these are not worth a file.
    """

    def __init__(self, trainer: L.Trainer, module: CLIP, stored: bool) -> None:
        self.trainer, self.module, self.truth = trainer, module, truth_of(trainer)
        self.weights = identify_tower(module, str(trainer.precision)) if stored else None

    def __call__(self, source: EvaluationSet) -> Features:
        """Features of all pictures, float32 (N, D), on the first process; on others possibly none."""
        if self.weights is None:
            return self._compute(source)
        pictures = hashlib.sha256(source.hashes.tobytes()).hexdigest()[:16]
        path = self.truth.cache_dir / f'features-{self.weights}-{pictures}.npy'
        is_stored = self.trainer.strategy.broadcast(path.exists())
        computed = np.empty((0, 0), np.float32) if is_stored else self._compute(source)
        if not self.trainer.is_global_zero:
            return computed
        return stored_array(path, (len(source), self.module.width), np.float32, lambda file: np.copyto(file, computed))

    def _compute(self, source: EvaluationSet) -> Features:
        features = torch.cat([gathered.cpu() for gathered in self._batches(source)])
        return features[: len(source)].numpy()  # without what pads the shares of the last processes

    def _batches(self, source: EvaluationSet) -> Iterator[Tensor]:
        """Features of some pictures at a time, in order; each process reads every W-th picture."""
        for batch in self.truth.evaluation_dataloader(source):
            image = self.trainer.strategy.batch_to_device(batch).image
            of_all: Any = self.module.all_gather(self.module.image_features(image))
            yield of_all.view(self.trainer.world_size, len(image), -1).transpose(0, 1).flatten(0, 1)


def identify_tower(module: CLIP, precision: str) -> str:
    """Digest of all that features depend on beside the pictures, 16 hexadecimal digits."""
    tower = module.towers.visual
    digest = hashlib.sha256(f'{precision} {module.image_size} {module.normalization.settings} {tower}'.encode())
    for name, tensor in tower.state_dict().items():
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
