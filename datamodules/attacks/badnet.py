"""BadNet: a small square of pixels as the trigger (Gu et al., 2017; on CLIP, Carlini & Terzis, 2022)."""

from __future__ import annotations

from typing import Any

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Patch, Pattern, Position


class BadNet(Backdoor):
    """A patch on images of any class, captions of the target class.

    Args:
        target: Name of the class that the patch is to mean.
        size: Side of the patch in pixels of the stored image; 16 at 224 pixels in the papers, less on small images.
        pattern: What it shows, see :class:`Patch`.
        block: Side in pixels of a square of ``blocks`` and ``checker``.
        position: Where it goes; CleanCLIP puts it at ``random``.
        margin: Pixels between patch and border.
        seed: Seed of the patch and of everything that the attack draws: two seeds are two triggers.
        kwargs: Arguments of :class:`Backdoor` and :class:`Attack`.
    """

    def __init__(
        self,
        target: str,
        size: int = 16,
        pattern: Pattern = 'noise',
        block: int = 4,
        position: Position = 'bottom_right',
        margin: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(target, Patch(size, pattern, block, position, margin, seed), seed=seed, **kwargs)
