"""CleanCLIP's supervised variant: fine-tune the image tower of a poisoned CLIP on labeled images."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.contracts import labels_of
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP, Pairs


class SupervisedFinetuning(CLIP):
    """Trains the image tower and a linear classifier on the classes of clean images (Bansal et al., 2023).

    The text tower and the temperature stay as they are. The classifier starts at zero and reads unit-norm embeddings
    over the temperature, the scale of CLIP's own logits; the released code starts at random and does not normalize.

    Args:
        evaluate: What measures accuracy and attack success: the trained classifier, ``head``, or the text prompts,
            ``zero_shot``. A set of other classes than those of the training images is always measured by prompts.
        **kwargs: Arguments of :class:`CLIP`; a step takes one view.

    Attributes:
        head: The classifier. Its size depends on the data, so it is made in ``setup``.
    """

    assumes_clean_pairs = True

    def __init__(self, evaluate: Literal['head', 'zero_shot'] = 'head', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.frozen is not None:
            raise UsageError(
                'model.frozen has no effect on SupervisedFinetuning, which trains one tower: leave it null.'
            )
        if self.views != 1:
            raise UsageError('model.views has no effect on SupervisedFinetuning, which trains one view: leave it at 1.')
        self.evaluate = evaluate
        self.head: nn.Linear | None = None
        self.labels = torch.empty(0, dtype=torch.int64)  # class of each row of the training pairs
        self.batch_labels = self.labels
        self.by_head: list[bool] = []  # whether the classifier measures an evaluation set
        self.towers.requires_grad_(False)
        self.towers.visual.requires_grad_(True)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        labels = labels_of(self.trainer)
        if stage == 'fit':
            self.labels = torch.from_numpy(labels.row_labels())
        if self.head is None:
            self.head = nn.Linear(self.width, len(labels.classes))
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        self.by_head = [self.evaluate == 'head' and alike for alike in labels.sets_with_these_classes()]

    def classify(self, image: Tensor) -> Tensor:
        """Logits (B, C) of the classifier, of unit-norm embeddings (B, D)."""
        assert self.head is not None
        return self.head(self.logit_scale * image)

    def training_step(self, batch: Pairs, batch_idx: int) -> dict[str, Tensor]:
        self.batch_labels = self.labels[batch.row.cpu()].to(self.device)
        return super().training_step(batch, batch_idx)

    def losses(self, image: Tensor, text: Tensor, cross_modal: int) -> dict[str, Tensor]:
        return {'supervised': F.cross_entropy(self.classify(image[0]), self.batch_labels)}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        answer = super().validation_step(batch, batch_idx, dataloader_idx)
        if not self.by_head[dataloader_idx]:
            return answer
        with torch.autocast(self.device.type, enabled=False):
            return {**answer, 'logits': self.classify(answer['image'])}

    test_step = validation_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        assert self.head is not None
        if 'head.bias' not in checkpoint['state_dict']:
            if any(self.by_head):
                raise UsageError(
                    'ckpt_path has no classifier, as another method has trained it: measure it by its prompts with '
                    'model.evaluate=zero_shot.'
                )
        elif (classes := len(checkpoint['state_dict']['head.bias'])) != len(self.head.bias):
            raise UsageError(
                f'ckpt_path has a classifier of {classes} classes, but the data have {len(self.head.bias)}: use data '
                f'of the same classes, or load its towers with model.init_from.'
            )
