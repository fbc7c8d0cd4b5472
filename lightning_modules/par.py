"""PAR, perturb and recover (Singh et al., 2024; arXiv 2412.00727): move away from the poisoned model, but stay CLIP."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.usage_error import check_number
from lightning_modules.clip import Pairs
from lightning_modules.poisoned import Repair


class Embedded(NamedTuple):
    """Unit-norm embeddings of a batch, (b, D)."""

    image: Tensor
    text: Tensor


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Squared Euclidean distance of each row to its counterpart: (b, D), (b, D) -> (b,); at most 4 for unit norms."""
    return (rows - others).square().sum(-1)


def bounded_push(distances: Tensor, bound: float) -> Tensor:
    """Loss that falls as the mean distance grows, until the bound: ``-min(mean(distances), bound)``.

    Beyond the bound the gradient is zero, so that the CLIP loss alone acts.

    Example:
        >>> distances = torch.tensor([1.0, 3.0], requires_grad=True)
        >>> bounded_push(distances, bound=2.15).item(), bounded_push(distances, bound=1.5).item()
        (-2.0, -1.5)
    """
    return -distances.mean().clamp(max=bound)


class PAR(Repair):
    """Fine-tunes a poisoned CLIP so that embeddings move away from the poisoned model's while the CLIP loss holds.

        L = CLIP(I, T) - push_weight * (min(d(I), bound) + min(d(T), bound))

    d is the mean squared Euclidean distance of a batch's unit-norm embeddings to those that the frozen poisoned model
    gives the same images, or captions. Two unrelated embeddings are 2 apart. As in the released code, the temperature
    is not trained. No strong augmentation is needed. With ``views: 2``, the push is that of view 1.

    Args:
        bound: Mean squared distance up to which embeddings are pushed away, tau in the paper (2.15). In (0, 4].
        push_weight: Weight of the push of each modality; the released code has 0.5.
        **kwargs: Arguments of :class:`CLIP`. ``init_from`` or ``pretrained`` names the poisoned model.
    """

    def __init__(self, bound: float = 2.15, push_weight: float = 0.5, **kwargs: Any) -> None:
        check_number('model.bound', bound, '(0, 4]')
        check_number('model.push_weight', push_weight, '[0, inf)')
        super().__init__(**kwargs)
        self.bound, self.push_weight = bound, push_weight
        self.towers.logit_scale.requires_grad_(False)
        self.before: Embedded | None = None  # the batch of this step, embedded by the poisoned model

    def training_step(self, batch: Pairs, batch_idx: int) -> dict[str, Tensor]:
        with torch.no_grad():
            image = self.poisoned.encode_image(self.normalization(batch.image[0]))
            self.before = Embedded(image, self.poisoned.encode_text(batch.tokens[0]))
        return super().training_step(batch, batch_idx)

    def losses(self, image: Tensor, text: Tensor, cross_modal: int) -> dict[str, Tensor]:
        assert self.before is not None
        return {
            **super().losses(image, text, cross_modal),
            'push_image': self.push(image[0], self.before.image),
            'push_text': self.push(text[0], self.before.text),
        }

    def push(self, rows: Tensor, before: Tensor) -> Tensor:
        """Weighted push of one modality, over the batch of all processes."""
        distances = self.gather(squared_distances(rows, before)[:, None]).rows
        return self.push_weight * bounded_push(distances, self.bound)
