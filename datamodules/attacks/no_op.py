"""NoOpTrigger: a control whose trigger changes nothing, to see what the captions alone do."""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Trigger


class Unchanged(Trigger):
    """Returns images as they are."""

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        return images

    def parameters(self) -> dict[str, int | float | str]:
        return {}


class NoOpTrigger(Backdoor):
    """The control of every backdoor: the same images, captions and files as a backdoor with the same arguments.

    It must stay at the success rate of clean training. Any success beyond that comes not from a trigger but from wrong
    captions, or from how images are chosen, stored and measured.

    Args:
        target: Name of the class whose captions the images get.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(self, target: str, **kwargs: Any) -> None:
        super().__init__(target, Unchanged(), **kwargs)
