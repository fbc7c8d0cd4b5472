"""Zero-shot classifiers that are encoded once, for as long as the text tower and the prompts stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

NOT_OF_TEXT = ('visual.', 'logit_')  # names of weights that embeddings of captions do not depend on


class Keep(Protocol):
    """Keeps an array beyond this process; ``datamodules.contracts.Prompts.kept_array`` does."""

    def __call__(self, name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> np.ndarray:
        """What was kept under a name, float32; ``fill`` writes it the first time."""


class Model(Protocol):
    """What makes classifiers.

    Attributes:
        width: Dimension D of an embedding.
    """

    width: int

    def classifier(self, tokens: Tensor) -> Tensor:
        """The classifier, (C, D), of prompts, int64 (C, P, T)."""


class Classifiers:
    """Keeps the classifiers of the last evaluation."""

    def __init__(self) -> None:
        self.known: dict[str, Tensor] = {}

    def build(self, prompts: Sequence[Tensor], model: Model, tower: str, keep: Keep | None = None) -> list[Tensor]:
        """Builds the classifier of each evaluation set, (C, D); sets with the same prompts share one.

        Args:
            prompts: Prompts of each set, int64 (C, P, T).
            model: Makes a classifier of prompts.
            tower: Identity of all else that a classifier depends on, see :func:`identify_text_tower`.
            keep: Keeps classifiers for other processes; ``None`` leaves them in memory alone.
        """
        names = [digest(tower.encode(), tokens.numpy().tobytes()) for tokens in prompts]
        self.known = {name: classifier for name, classifier in self.known.items() if name in names}
        for name, tokens in zip(names, prompts, strict=True):
            if name not in self.known:
                self.known[name] = model.classifier(tokens) if keep is None else _kept(keep, name, model, tokens)
        return [self.known[name] for name in names]


def _kept(keep: Keep, name: str, model: Model, tokens: Tensor) -> Tensor:
    def fill(array: np.ndarray) -> None:
        array[:] = model.classifier(tokens).cpu().numpy()

    return torch.from_numpy(np.array(keep(f'classifier-{name}', (len(tokens), model.width), fill)))


def identify_text_tower(towers: nn.Module, *settings: object) -> str:
    """Digest of the weights that embeddings of captions depend on, and of how they are run."""
    weights = {name: weight for name, weight in towers.state_dict().items() if not name.startswith(NOT_OF_TEXT)}
    parts = [part for name, weight in weights.items() for part in (name.encode(), _bytes(weight))]
    return digest(repr(settings).encode(), *parts)


def _bytes(weight: Tensor) -> np.ndarray:
    return weight.cpu().contiguous().view(-1).view(torch.uint8).numpy()


def digest(*parts: Any) -> str:
    """Hash of some parts, bytes or arrays (16 hexadecimal digits)."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()[:16]
