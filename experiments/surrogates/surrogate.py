"""A trained model to optimize attacks on, and how it sees the data of a run."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.evaluation.sets import EvaluationSet
from datamodules.pairs import PairsDataModule
from datamodules.pictures.augment import CleanView, ImageViews, normalize
from datamodules.pictures.batches import CLEAN
from datamodules.text.prompts import fill_templates
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from lightning_modules.weights import load_weights


def load_trained(model: CLIP, ckpt_path: str | None, device: torch.device) -> CLIP:
    """Loads the checkpoint into the model, if one is given, and returns the model on the device, frozen.

    Raises:
        UsageError: If the model's weights are random.
    """
    read_weights(model, ckpt_path)
    return model.to(device).eval().requires_grad_(False)


def read_weights(model: CLIP, ckpt_path: str | None) -> dict[str, Any]:
    """Loads the checkpoint into the model, if one is given, and returns all that it holds.

    Raises:
        UsageError: If the model's weights are random.
    """
    if ckpt_path is None and model.untrained:
        raise UsageError(
            'random weights tell nothing: give --ckpt_path, --model.init_from, or --model.pretrained with '
            '--model.architecture.'
        )
    if ckpt_path is None:
        return {}
    checkpoint = load_weights(model, ckpt_path, 'ckpt_path')
    model.start_from(checkpoint)
    return checkpoint


class Surrogate:
    """Embeds and classifies pictures with a trained model, differentiably with respect to the pixels.

    Args:
        model: A trained model, as :func:`load_trained` returns it.
        data: Data after ``setup``.

    Attributes:
        classifier: Unit-norm embedding of each class of the data, the mean of its prompts, (C, D).
    """

    def __init__(self, model: CLIP, data: PairsDataModule) -> None:
        self.model, self.data, self.device = model, data, model.device
        tokens = [[data.tokenizer(prompt) for prompt in fill_templates(name, data.templates)] for name in data.classes]
        with torch.no_grad():
            self.classifier = model.classifier(torch.from_numpy(np.array(tokens)))

    def embed(
        self, pixels: Tensor, views: ImageViews | None = None, rows: Tensor | None = None, epoch: int = CLEAN
    ) -> Tensor:
        """Unit-norm embeddings (B, D) of pictures in [0, 1], (B, 3, h, w).

        Args:
            pixels: The pictures.
            views: Augmentation to apply first; the clean view if ``None``.
            rows: Row of each picture, int64 (B,), for random views.
            epoch: Epoch that random views are drawn for.
        """
        size, seed = self.model.image_size, self.data.seed
        rows = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device) if rows is None else rows
        view = (views or CleanView())(255 * pixels, rows, size, seed=seed, epoch=epoch, view=0)
        return self.model.encode_image(normalize(view))

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits of the zero-shot classifier for pictures in [0, 1], (B, C)."""
        return self.model.logit_scale * self.embed(pixels) @ self.classifier.T

    @torch.no_grad()
    def embed_pictures(self, pictures: np.ndarray) -> Tensor:
        """Unit-norm embeddings (n, D) of any number of stored pictures, uint8 (n, 3, h, w), in the clean view."""
        parts = np.array_split(pictures, -(-len(pictures) // self.data.eval_batch_size))
        return torch.cat([self.embed(self.pixels(part)) for part in parts])

    def classify(self, pictures: np.ndarray) -> np.ndarray:
        """The zero-shot class of each stored picture, int64 (n,)."""
        return (self.embed_pictures(pictures) @ self.classifier.T).argmax(-1).cpu().numpy()

    def measure_success(self, test: EvaluationSet) -> float:
        """Share of an attack's test images that the model takes for the target."""
        return float((self.classify(test.images) == test.target).mean())

    def pixels(self, pictures: np.ndarray) -> Tensor:
        """Converts stored pictures to a tensor in [0, 1] on the device."""
        return torch.from_numpy(np.array(pictures)).to(self.device) / 255

    def hash_weights(self) -> str:
        """SHA-256 of the weights, in hexadecimal, which identifies the model wherever they came from."""
        weights = hashlib.sha256()
        for name, tensor in sorted(self.model.towers.state_dict().items()):
            weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return weights.hexdigest()
