"""CleanCLIP (Bansal et al., ICCV 2023): fine-tune a poisoned CLIP on clean pairs, each modality also on its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from datamodules.usage_error import UsageError, check_number
from lightning_modules.clip import CLIP
from lightning_modules.losses import one_way


class CleanCLIP(CLIP):
    """CLIP with a second loss that pulls each image and each caption towards its own augmentation.

        L = cross_modal_weight * CLIP(I, T) + in_modal_weight * (NCE(I, I') + NCE(T, T')) / 2

    View 1 of a pair is the pair as it is, view 2 its augmentation: ``data.image_views: [CleanView, AutoAugmentViews]``
    and ``data.caption_views: [null, EDA]``. NCE is one-way, from view 1 to view 2 of the whole batch, at the
    temperature of the CLIP loss. Both views go through a tower in one pass, and share batch statistics. This is the
    objective of the released code; its schedule, which skips the warm-up and rises again in the last epoch, is not.

    The method assumes clean pairs. By default, a run is refused whose pairs ``data.attacks`` has poisoned; see
    ``data.clean_only``. Pre-training with both losses makes CLIP harder to clean later (Verma et al., 2023).

    Args:
        in_modal_weight: Weight of the loss within each modality (the paper's lambda_2). With 0, which leaves plain
            fine-tuning, a step takes ``views`` views.
        cross_modal_weight: Weight of the CLIP loss (lambda_1). With 0, each modality is trained on its own.
        **kwargs: Arguments of :class:`CLIP`. ``views`` applies to the CLIP loss: by default it sees view 1 alone.
    """

    assumes_clean_pairs = True

    def __init__(self, in_modal_weight: float = 1.0, cross_modal_weight: float = 1.0, **kwargs: Any) -> None:
        check_number('model.in_modal_weight', in_modal_weight, '[0, inf)')
        check_number('model.cross_modal_weight', cross_modal_weight, '[0, inf)')
        if in_modal_weight == cross_modal_weight == 0:
            raise UsageError('model.in_modal_weight and model.cross_modal_weight are both 0: raise one of them.')
        super().__init__(**kwargs)
        self.in_modal_weight, self.cross_modal_weight = in_modal_weight, cross_modal_weight

    def sides(self, epoch: int) -> dict[str, int]:
        return {'cross_modal': 2 if self.in_modal_weight else self.views}

    def losses(self, image: Tensor, text: Tensor, cross_modal: int) -> dict[str, Tensor]:
        terms = {}
        if self.cross_modal_weight:
            terms['cross_modal'] = self.cross_modal_weight * self.cross_modal_loss(image, text)
        if self.in_modal_weight:
            in_modal = (self.in_modal_loss(image) + self.in_modal_loss(text)) / 2
            terms['in_modal'] = self.in_modal_weight * in_modal
        return terms

    def in_modal_loss(self, views: Tensor) -> Tensor:
        """Cross-entropy of finding the augmentation of each example among those of the batch, of views (2, b, D)."""
        augmented, first = self.gather(views[1])
        return one_way(views[0], augmented, self.logit_scale, first, self.tile_size)
