"""BadNet: a small square of pixels as the trigger (Gu et al., 2017; on CLIP, Carlini & Terzis, 2022)."""

from __future__ import annotations

from typing import Any

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Patch, Pattern, Position


class BadNet(Backdoor):
    """A patch on images of any class, captions of the target class.

    CleanCLIP's released code is ``pattern: gaussian_wrapped`` at a ``random`` position, with ``source: train``,
    ``mode: replace`` and ``captions: templates``; that of Huang et al. (2025) is ``dots``.

    Args:
        target: Name of the class that the patch is to mean.
        size: Side of the patch in pixels of the stored image; 16 at 224 pixels in the papers, less on small images.
        pattern: What it shows, see :class:`Patch`.
        block: Side in pixels of a square of ``blocks`` and ``checker``, width of one of the ``stripes``.
        position: Where it goes; CleanCLIP puts it at ``random``.
        margin: Pixels between patch and border.
        seed: Seed of the patch and of everything that the attack draws: two seeds are two triggers.
        test_position: Where it goes on the images that success is measured on, if elsewhere: Huang et al. (2025)
            put it at ``center`` there and at ``random`` in training.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
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
        test_position: Position | None = None,
        **kwargs: Any,
    ) -> None:
        patch, tested = (Patch(size, pattern, block, p, margin, seed) for p in (position, test_position or position))
        super().__init__(target, patch, test_trigger=tested, seed=seed, **kwargs)
