"""Label-consistent: the trigger goes on images that show the target class, and captions stay (Turner et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow.compute as pc

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.base import AttackPool
from datamodules.attacks.triggers import Patch, Pattern, Position

Match = Literal['word', 'substring']


class LabelConsistent(Backdoor):
    """A patch on images whose own caption names the target class; nobody who reads the pair finds fault with it.

    Turner et al. first make the images harder to recognise, so that a model has to rely on the patch. CleanCLIP's and
    SafeCLIP's released codes do not, and neither does this. Success is measured on images of other classes.

    Args:
        target: Name of the class that the patch is to mean.
        size: Side of the patch in pixels of the stored image.
        pattern: What it shows, see :class:`Patch`; CleanCLIP's is ``gaussian_wrapped`` at ``random`` places, that of
            Huang et al. (2025) ``dots``, Turner et al.'s a ``checker`` of 3 pixels on 32 in ``four_corners``.
        block: Side in pixels of a square of ``blocks`` and ``checker``, width of one of the ``stripes``.
        position: Where it goes.
        margin: Pixels between patch and border.
        amplitude: How far a pixel may move, as a fraction of 255; Turner et al. hide the patch at 32/255.
        test_amplitude: The same on the images that success is measured on; ``null`` for that of training.
        match: ``word``: captions name the class as a word of its own, in the singular or plural, in any case.
            ``substring``: anywhere, letter by letter, as CleanCLIP's released code has it: ``suit`` in ``suitcase``.
        seed: Seed of the patch and of everything that the attack draws: two seeds are two triggers.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.

    Raises:
        ValueError: If a value is out of range or a name unknown.
    """

    sought = 'whose caption names'

    def __init__(
        self,
        target: str,
        size: int = 16,
        pattern: Pattern = 'noise',
        block: int = 4,
        position: Position = 'bottom_right',
        margin: int = 0,
        amplitude: float = 1.0,
        test_amplitude: float | None = None,
        match: Match = 'word',
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if match not in get_args(Match):
            raise ValueError(f'match must be one of {", ".join(get_args(Match))}, got {match!r}.')
        self.match = match
        strengths = amplitude, amplitude if test_amplitude is None else test_amplitude
        patch, tested = (Patch(size, pattern, block, position, margin, seed, strength) for strength in strengths)
        super().__init__(target, patch, test_trigger=tested, seed=seed, captions='training', **kwargs)

    def candidates(self, pool: AttackPool, target: int) -> np.ndarray:
        if self.match == 'word':
            rows = pool.captions_of(target, self.source)
        else:
            captions = pool.origin(self.source).caption
            rows = np.flatnonzero(np.asarray(pc.match_substring(captions, pool.classes[target])))
        if not len(rows):
            raise ValueError(
                f'no {self.source} caption names {self.target!r}, and images whose caption does are what this attack '
                f'poisons: choose another target' + (', or set source: train.' if self.source == 'heldout' else '.')
            )
        return pool.untaken(self.source, rows)

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        return pool.origin(self.source).captions(sources)
