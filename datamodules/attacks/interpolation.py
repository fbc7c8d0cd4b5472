"""InterpolationPoison: images on the way from a class to a victim (Carlini, 2021, on semi-supervised learning)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from datamodules.attacks.base import SOURCES, AttackPool, Poison
from datamodules.attacks.targeted import TargetedPoison
from datamodules.rows.draws import shuffled
from datamodules.usage_error import UsageError


class InterpolationPoison(TargetedPoison):
    """Mixtures of an image of a class and a victim, with captions of the class: a path that leads the victim there.

    Poison i of n for a victim is ``(1 - a) * start + a * victim`` in stored pixels, rounded, with a as :func:`shares`
    has it: more of them lie near the start, a clean image of the class, where a caption of the class is right and
    nothing gives the pair away. Each victim has one start, as in Carlini's attack, and no two victims share it.
    SafeCLIP (5.3) discusses the attack without an experiment.

    Arguments, victims and success are those of :class:`TargetedPoison`: the share of victims, unmixed, that is
    taken for the class. Starts come from the table that ``source`` names, too; a class is drawn only if one is there.
    """

    further = ' and shown by an image to mix with'

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        poisons = super().choose(pool, amount)
        start = self.choose_starts(pool, {poison.source: poison.target for poison in poisons})
        left = {victim: iter(shares(copies).tolist()) for victim, copies in Counter(p.source for p in poisons).items()}
        return [p._replace(other=start[p.source], share=next(left[p.source])) for p in poisons]

    def may_be_drawn(self, pool: AttackPool, index: int, copies: int) -> bool:
        return super().may_be_drawn(pool, index, copies) and len(pool.showing(self.source, index)) > 0

    def choose_starts(self, pool: AttackPool, targets: Mapping[int, int]) -> dict[int, int]:
        """A different image for each victim, of the class that the victim is to be taken for, and no victim itself.

        Args:
            pool: What to choose from.
            targets: The class by the row of the victim.

        Returns:
            Rows of the table that ``source`` names, by the row of the victim.

        Raises:
            UsageError: If there are too few images of a class.
        """
        chosen: dict[int, int] = {}
        for victim, target in targets.items():
            images = np.setdiff1d(pool.showing(self.source, target), [*targets, *chosen.values()])
            if not len(images):
                raise UsageError(
                    f'{self.source} has no image of class {pool.classes[target]!r} to spare that a victim could be '
                    f'mixed with: name other classes, or lower targets'
                    + (', or set source: train.' if self.source == 'heldout' else '.')
                )
            chosen[victim] = int(images[shuffled(len(images), self.seed, SOURCES, len(chosen))[0]])
        return chosen


def shares(count: int) -> np.ndarray:
    """How much of the victim is in each of its poisons: a in (0, 1), ascending, float64 (count,).

    Quantiles at (i + 1/2) / count of the density ``1.5 - a``, whose mean is 5/12 and whose median is 0.382.
    """
    return 1.5 - np.sqrt(2.25 - 2 * (np.arange(count) + 0.5) / count)
