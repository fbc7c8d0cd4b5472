"""ABD, adversarial backdoor defense (Kuang et al., 2024; arXiv 2409.15968): align images with adversarial ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.usage_error import check_number
from lightning_modules.adversarial import pgd
from lightning_modules.cleanclip import CleanCLIP
from lightning_modules.normalization import from_pixels, to_pixels
from lightning_modules.poisoned import Repair


class ABD(Repair, CleanCLIP):
    """CleanCLIP whose augmented images are adversarial examples of the poisoned model.

    In a poisoned model, adversarial examples lie where triggered images do. The loss within images therefore pulls an
    image towards an adversarial example of it, which projected gradient ascent makes from view 1 by lowering the
    similarity with the image's own caption in the frozen poisoned model. Captions are augmented as in CleanCLIP
    (``data.caption_views: [null, EDA]``); of ``data.image_views``, only that of view 1 is used.

    The paper's text was not at hand beyond its objective: radius, step and number of steps are customary values.

    Args:
        radius: Largest change of a pixel's channel, in units of [0, 1].
        step: Length of a step, in the same units.
        steps: Steps of the ascent. Each costs a forward and a backward pass of the poisoned image tower.
        **kwargs: Arguments of :class:`CleanCLIP`. ``init_from`` or ``pretrained`` names the poisoned model.
    """

    def __init__(self, radius: float = 8 / 255, step: float = 2 / 255, steps: int = 10, **kwargs: Any) -> None:
        check_number('model.radius', radius, '(0, 1]')
        check_number('model.step', step, '(0, 1]')
        check_number('model.steps', steps, '[1, inf)')
        super().__init__(**kwargs)
        self.radius, self.step, self.steps = radius, step, steps

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        if len(batch.image) > 1:
            adversarial = self.perturb(batch.image[0], batch.tokens[0])
            batch = batch._replace(image=torch.stack([batch.image[0], adversarial]))
        return super().training_step(batch, batch_idx)

    def perturb(self, image: Tensor, tokens: Tensor) -> Tensor:
        """Adversarial examples of images, both normalized as CLIP's own, (B, 3, H, W)."""
        size = self.chunk_size or len(image)
        chunks = zip(image.split(size), tokens.split(size), strict=True)
        return torch.cat([self._perturb_chunk(*chunk) for chunk in chunks])

    def _perturb_chunk(self, image: Tensor, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            text = self.poisoned.encode_text(tokens)

        def dissimilarity(pixels: Tensor) -> Tensor:
            embedded = self.poisoned.encode_image(self.normalization(from_pixels(pixels)))
            return -(embedded * text).sum(-1)

        return from_pixels(pgd(to_pixels(image), dissimilarity, self.radius, self.step, self.steps))
