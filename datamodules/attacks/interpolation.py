"""InterpolationPoison: mixtures of an image of a class and a victim (Carlini, 2021, on semi-supervised learning)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from datamodules.attacks.base import SOURCES, AttackPool, Poison
from datamodules.attacks.targeted import TargetedPoison
from datamodules.rows.draws import permutation
from datamodules.usage_error import UsageError


class InterpolationPoison(TargetedPoison):
    """Mixtures of an image of a class and a victim, with captions of the class, that lead the victim into the class.

    Poison i of n for a victim is ``(1 - a) * start + a * victim`` in stored pixels, rounded, with a from
    :func:`compute_shares`: more of them lie near the start, a clean image of the class, where the caption fits and
    nothing gives the pair away. Each victim has one start, as in Carlini's attack, and no two victims share one.
    SafeCLIP (5.3) discusses the attack without an experiment.

    Arguments and victims are those of :class:`TargetedPoison`, and so is success: the share of unmixed victims that is
    taken for the class. Starts come from the same table as victims; a class is drawn only if that table shows it.
    """

    further = ' and shown by an image to mix with'

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        poisons = super().choose(pool, amount)
        start = self.choose_starts(pool, {poison.source: poison.target for poison in poisons})
        copies = Counter(poison.source for poison in poisons)
        shares = {victim: iter(compute_shares(count).tolist()) for victim, count in copies.items()}
        return [p._replace(other=start[p.source], share=next(shares[p.source])) for p in poisons]

    def may_be_drawn(self, pool: AttackPool, index: int, copies: int) -> bool:
        return super().may_be_drawn(pool, index, copies) and len(pool.showing(self.source, index)) > 0

    def choose_starts(self, pool: AttackPool, targets: Mapping[int, int]) -> dict[int, int]:
        """A different start for each victim: an image of the victim's target class that is not a victim itself.

        Args:
            pool: What to choose from.
            targets: Target class by row of the victim.

        Returns:
            Row of the start by row of the victim, both in the table that ``source`` names.

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
            chosen[victim] = int(images[permutation(len(images), self.seed, SOURCES, len(chosen))[0]])
        return chosen


def compute_shares(count: int) -> np.ndarray:
    """Share of the victim in each of its poisons: a in (0, 1), ascending, float64 (count,).

    These are the quantiles at (i + 1/2) / count of the density ``1.5 - a``, whose mean is 5/12 and median 0.382.
    """
    return 1.5 - np.sqrt(2.25 - 2 * (np.arange(count) + 0.5) / count)
