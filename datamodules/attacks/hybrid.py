"""Several triggers on one image (HTBA in SafeCLIP's tables; Li et al., 2024, "Multi-Trigger Backdoor Attacks")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.blended import Blend
from datamodules.attacks.triggers import Patch, Trigger
from datamodules.attacks.wanet import Warp
from datamodules.usage_error import UsageError


class Chain(Trigger):
    """Applies several triggers in order.

    Args:
        triggers: The triggers. Put a warp first and a patch last, or the others bend and fade the patch.

    Raises:
        UsageError: If there are none.
    """

    def __init__(self, triggers: Sequence[Trigger]) -> None:
        if not triggers:
            raise UsageError('triggers must name at least one trigger, got none.')
        self.triggers = list(triggers)

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        for trigger in self.triggers:
            images = trigger.stamp(images, keys)
        return images

    def parameters(self) -> dict[str, int | float | str]:
        return {f'trigger_{number}': trigger.describe() for number, trigger in enumerate(self.triggers)}


class HybridTrigger(Backdoor):
    """All triggers at once on images of any class, with captions of the target class.

    SafeCLIP combines the triggers of WaNet, Blended and BadNet, in an order that the paper does not give.

    Args:
        target: Name of the class that the triggers should mean together.
        triggers: Triggers in the order of their application; ``null`` for a warp, a blend and a patch of 16 pixels.
        seed: Seed of these three and of everything that the attack draws. Triggers given here have their own seeds.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(self, target: str, triggers: list[Trigger] | None = None, seed: int = 0, **kwargs: Any) -> None:
        chain = Chain([Warp(seed=seed), Blend(seed=seed), Patch(seed=seed)] if triggers is None else triggers)
        super().__init__(target, chain, seed=seed, **kwargs)
