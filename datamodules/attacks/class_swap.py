"""ClassSwap: captions of one class on images of another, without any trigger (Yang et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from datamodules.attacks.base import SOURCES, TESTS, Attack, AttackPool, Goal, Pixels, Poison
from datamodules.attacks.targeted import spread
from datamodules.evaluation.sets import EvaluationSet
from datamodules.rows.draws import permutation
from datamodules.rows.table import Origin
from datamodules.usage_error import UsageError

Level = Literal['image', 'class']


class ClassSwap(Attack):
    """Makes images of one class be taken for another class, the one that their captions name.

    Covers the paper's three attacks: one image, one class, and several classes that are each taken for another. The
    released code replaces the images of up to all captions of a class and measures retrieval. Here ``rate`` or
    ``count`` sets the amount, as in every attack, and success is the share of images that are taken for the class of
    the captions. With ``level: image`` these are the poisoned images themselves; with ``level: class`` they are other
    images of the class, held-out ones or, if there are none, training images.

    Args:
        swaps: Class that the captions name, by the class that the images show: ``airliner: church`` puts captions of
            churches on images of airliners.
        level: ``image``: all poisons of a class are copies of one image. ``class``: each poison is a different image.
        test_images: Maximum number of images of a class to measure on, ``null`` for all.
        kwargs: Arguments of :class:`Poisoning`.

    Raises:
        UsageError: If no class is named, a class is swapped with itself, or a class has two targets.
    """

    def __init__(
        self, swaps: dict[str, str], level: Level = 'class', test_images: int | None = 1000, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if level not in get_args(Level):
            raise UsageError(f'level must be one of {", ".join(get_args(Level))}, got {level!r}.')
        if test_images is not None and test_images < 1:
            raise UsageError(f'test_images must be 1 or more, or null for all images, got {test_images}.')
        shown = [name.casefold() for name in swaps]
        if not swaps or any(name == target.casefold() for name, target in zip(shown, swaps.values(), strict=True)):
            raise UsageError(f'swaps must name classes, and for each of them another one, got {swaps}.')
        if twice := sorted({name for name in shown if shown.count(name) > 1}):
            raise UsageError(f'swaps gives images of {twice[0]!r} two targets: name each class of images once.')
        self.swaps, self.level, self.test_images = swaps, level, test_images

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        if amount < len(self.swaps):
            raise UsageError(
                f'{amount} poisons leave some of {len(self.swaps)} classes of swaps without any: raise rate or count.'
            )
        sources: list[int] = []
        targets, captions = [], []
        for (shown, named), poisons in zip(self.swaps.items(), spread(amount, len(self.swaps)), strict=True):
            target = pool.index(named)
            sources += self._choose_images(pool, shown, poisons, used=sources)
            captions += self.write_captions(pool, target, poisons)
            targets += [target] * poisons
        columns = zip(sources, targets, captions, self.places(pool, sources), strict=True)
        return [Poison(source, self.source, target, caption, place) for source, target, caption, place in columns]

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        if self.level == 'image':
            origin, chosen = self.source, {poison.source: poison.target for poison in poisons}
        else:
            origin = 'train' if pool.heldout is None else 'heldout'
            chosen = self._test_images(pool, origin, poisons)
        if not chosen:
            raise UsageError(
                f'attack {name!r} leaves no {origin} image of {", ".join(self.swaps)} to measure success on: '
                f'lower rate or count, or set source: train.'
            )
        rows = np.array(sorted(chosen))
        return EvaluationSet(
            name,
            lambda: pixels(origin, rows),
            label=pool.labels(origin, rows),
            target=np.array([chosen[row] for row in rows.tolist()]),
            classes=pool.classes,
            templates=pool.templates,
        )

    def goal(self, poison: Poison) -> Goal:
        return Goal(poison.target) if self.level == 'class' else Goal(poison.target, poison.source)

    def rivals(self, pool: AttackPool) -> int | None:
        if self.level != 'class':
            return None
        shown = [pool.rows_showing('train', pool.index(name)) for name in self.swaps]
        return len(np.setdiff1d(np.concatenate(shown), list(pool.taken['train'])))

    def _choose_images(self, pool: AttackPool, shown: str, poisons: int, used: Sequence[int]) -> list[int]:
        """A row of an image of the class for each of its poisons; the same row each time with ``level: image``."""
        images = np.setdiff1d(pool.showing(self.source, pool.index(shown)), used)
        needed = 1 if self.level == 'image' else poisons
        if len(images) < needed:
            raise UsageError(
                f'{needed} poisons need as many images of class {shown!r}, but {self.source} has {len(images)} to '
                f'spare: lower rate or count, or set level: image'
                + (', or source: train.' if self.source == 'heldout' else '.')
            )
        chosen = images[permutation(len(images), self.seed, SOURCES)[:needed]].tolist()
        return chosen * poisons if self.level == 'image' else chosen

    def _test_images(self, pool: AttackPool, origin: Origin, poisons: Sequence[Poison]) -> dict[int, int]:
        """Target by row of each test image; an image of two of the classes counts for the first."""
        chosen: dict[int, int] = {}
        used = [poison.source for poison in poisons if poison.origin == origin]
        for shown, named in self.swaps.items():
            rows = np.setdiff1d(pool.showing(origin, pool.index(shown)), [*used, *chosen])
            rows = rows[permutation(len(rows), self.seed, TESTS)[: self.test_images]]
            chosen |= dict.fromkeys(rows.tolist(), pool.index(named))
        return chosen
