"""The poisoned model that a repair starts from, kept as it was."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from torch import Tensor, nn

from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP, embed
from lightning_modules.packed_text import encode_packed


class PoisonedModel(nn.Module):
    """A frozen copy of a model's towers, always in evaluation mode; a part of the checkpoint.

    Args:
        model: The model, with the weights that it starts from.
    """

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.towers: Any = copy.deepcopy(model.towers).requires_grad_(False)
        self.packs_text = model.packs_text
        self.train(False)

    def train(self, mode: bool = True) -> PoisonedModel:
        return super().train(False)  # else its batch norms would follow the batches

    def encode_image(self, image: Tensor) -> Tensor:
        """Unit-norm float32 embeddings (B, D) of images (B, 3, H, W) that are normalized as the model expects."""
        return embed(self.towers.encode_image, image)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unit-norm float32 embeddings (B, D) of tokens (B, T)."""
        packed = partial(encode_packed, self.towers)
        return embed(packed if self.packs_text else self.towers.encode_text, tokens)


class Repair(CLIP):
    """Base class of defenses that fine-tune a poisoned model and compare it with what it was.

    The weights to start from are those of ``init_from`` or ``pretrained``. A run that is resumed takes both the weights
    and the poisoned model from its checkpoint.

    Args:
        **kwargs: Arguments of :class:`CLIP`.

    Attributes:
        poisoned: The model as it was.
    """

    assumes_clean_pairs = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.poisoned = PoisonedModel(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.untrained = False

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.untrained:
            raise UsageError(
                f'{type(self).__name__} repairs a trained model: name it with model.init_from or model.pretrained.'
            )
