"""BadNet: a small square of pixels as the trigger (Gu et al., 2017; on CLIP, Carlini & Terzis, 2022)."""

from __future__ import annotations

from typing import Any

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.triggers import Patch, Pattern, Position


class BadNet(Backdoor):
    """A patch on images of any class, with captions of the target class.

    CleanCLIP's released code is ``pattern: gaussian_wrapped`` at a ``random`` position, with ``source: train``,
    ``mode: replace`` and ``captions: templates``; that of Huang et al. (2025) is ``dots``.

    Args:
        target: Name of the class that the patch should mean.
        size: Side of the patch in pixels of the stored image; 16 at 224 pixels in the papers, less on small images.
        pattern: ``noise`` (random pixels), ``blocks`` (random squares), ``solid`` (white), ``checker``, ``dots``,
            ``stripes``, or fresh noise for each image: ``gaussian`` (clipped) or ``gaussian_wrapped`` (modulo 256).
        block: Side in pixels of a square of ``blocks`` or ``checker``, or width of one of the ``stripes``.
        position: Where the patch goes; ``random``, as in CleanCLIP, is a different place on each image.
        margin: Pixels between patch and border.
        seed: Seed of the patch and of everything that the attack draws. Another seed is another trigger.
        test_position: Where the patch goes on the images that success is measured on; ``null`` for ``position``.
            Huang et al. (2025) use ``center`` there and ``random`` in training.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.

    Example:
        >>> from datamodules.attacks import AttackPool, BadNet
        >>> from datamodules.rows.table import PairTable
        >>> captions = ['a boat', 'a cat', 'a dog', 'a boat at sea']
        >>> table = PairTable(['0.jpg', '1.jpg', '2.jpg', '3.jpg'], captions, opener=None)  # no picture is opened
        >>> pool = AttackPool(table, heldout=None, classes=('boat', 'cat', 'dog'))
        >>> attack = BadNet('boat', size=8, count=2, source='train')
        >>> [(poison.source, poison.caption) for poison in attack.select(pool)]
        [(1, 'a boat at sea'), (2, 'a boat')]
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
