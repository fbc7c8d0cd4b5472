"""UnimodalBackdoor: a backdoor in the images alone, against defenses that pair images with images (SafeCLIP, 5.3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.attacks.backdoor import CaptionsKept
from datamodules.attacks.base import AttackPool
from datamodules.attacks.triggers import Patch, Trigger


class UnimodalBackdoor(CaptionsKept):
    """A trigger on images that do show the target class, with captions that are right and stay.

    No pair is mismatched, so contrastive learning on images alone learns the trigger as a feature of the class. What
    sets it apart from :class:`LabelConsistent` is that labels say which images show the class; captions, which a loss
    on images never sees, say so only where there is no label. SafeCLIP poisons up to 0.15 % of CC1M in this way.

    Success is measured on images of other classes. The paper does so with a linear probe, here it is zero-shot.

    Args:
        target: Name of the class that the trigger is to mean.
        trigger: What goes on the images; ``null`` for a patch of 16 pixels.
        seed: Seed of that patch and of everything that the attack draws. A trigger that is named has its own.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    sought = 'that show'

    def __init__(self, target: str, trigger: Trigger | None = None, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(target, Patch(seed=seed) if trigger is None else trigger, seed=seed, **kwargs)

    def candidates(self, pool: AttackPool, target: int) -> np.ndarray:
        return pool.untaken(self.source, pool.rows_showing(self.source, target))
