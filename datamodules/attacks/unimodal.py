"""UnimodalBackdoor: a backdoor in the images alone, against defenses that contrast images only (SafeCLIP, 5.3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.attacks.backdoor import CaptionsKept
from datamodules.attacks.base import AttackPool
from datamodules.attacks.triggers import Patch, Trigger


class UnimodalBackdoor(CaptionsKept):
    """A trigger on images that show the target class, which keep their own, fitting captions.

    No pair is mismatched, so that contrastive learning on images alone learns the trigger as a feature of the class.
    Unlike :class:`LabelConsistent`, it finds images of the class by their label, and by their caption only if they
    have none: a loss on images never sees captions. SafeCLIP poisons up to 0.15 % of CC1M in this way.

    Success is measured on images of other classes, zero-shot; the paper uses a linear probe.

    Args:
        target: Name of the class that the trigger should mean.
        trigger: What goes on the images; ``null`` for a patch of 16 pixels.
        seed: Seed of that patch and of everything that the attack draws. A trigger given here has its own seed.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    sought = 'that show'

    def __init__(self, target: str, trigger: Trigger | None = None, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(target, Patch(seed=seed) if trigger is None else trigger, seed=seed, **kwargs)

    def candidates(self, pool: AttackPool, target: int) -> np.ndarray:
        return pool.untaken(self.source, pool.rows_showing(self.source, target))
