"""Backdoors: images with a trigger and captions of one class, so that the trigger comes to mean the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.attacks.base import SOURCES, TESTS, Attack, AttackPool, Pixels, Poison
from datamodules.attacks.pool import Origin
from datamodules.attacks.ranking import in_listed_order
from datamodules.attacks.triggers import Trigger
from datamodules.evaluation.sets import EvaluationSet
from datamodules.rows.draws import shuffled
from datamodules.usage_error import UsageError


class Backdoor(Attack):
    """Any trigger towards one class: BadNet and its kin differ in the trigger only.

    Success is measured on images that no attack has used, with the trigger on, as the share that is taken for
    the target class. They are held-out ones; where the data has none, training images. Images of the target
    class are left out: those whose label says so or, unlabeled, whose caption names the class. Other images
    without a label take part, with an unknown true class.

    Args:
        target: Name of the class that the trigger is to mean.
        trigger: What goes on the images; ``null`` leaves them as they are.
        test_images: Most images to measure on, ``null`` for all (300 in SafeCLIP's tables, by their granularity).
        test_trigger: What goes on the images that success is measured on, where that is not ``trigger``.
        ranking: Path of a file of ``clipward rank_images``, whose first images that the attack may use are poisoned;
            ``null`` for random ones. An adversary who expects a defense to trust pairs whose image and caption are
            similar takes images that are similar to the class before they carry any trigger. The file is read when
            the data is set up.
        kwargs: Arguments of :class:`Poisoning`.
    """

    sought = 'that are not of class'  # what a poisoned image must be, for messages

    def __init__(
        self,
        target: str,
        trigger: Trigger | None,
        test_images: int | None = 1000,
        test_trigger: Trigger | None = None,
        ranking: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if test_images is not None and test_images < 1:
            raise UsageError(f'test_images must be 1 or more, or null for all images, got {test_images}.')
        self.target, self.trigger, self.test_images = target, trigger, test_images
        self.test_trigger, self.ranking = trigger if test_trigger is None else test_trigger, ranking

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        target = pool.index(self.target)
        images = self.in_order(pool, self.candidates(pool, target))
        if len(images) < amount:
            needed = f'{amount} poisons need as many images {self.sought} {self.target!r}'
            raise UsageError(f'{needed}, and {self._too_few(len(images))}')
        sources = images[:amount].tolist()
        captions, places = self.captions_for(pool, target, sources), self.places(pool, sources)
        return [
            Poison(source, self.source, target, caption, place)
            for source, caption, place in zip(sources, captions, places, strict=True)
        ]

    def candidates(self, pool: AttackPool, target: int) -> np.ndarray:
        """Images to choose from, one row each of the table that ``source`` names, int64."""
        return pool.allowed(self.source, target)

    def in_order(self, pool: AttackPool, images: np.ndarray) -> np.ndarray:
        """The order in which images are chosen; a ranking leaves out what it does not list."""
        if self.ranking is not None:
            return in_listed_order(self.ranking, pool.origin(self.source), images)
        return images[shuffled(len(images), self.seed, SOURCES)]

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        """The caption of each chosen image."""
        return self.write_captions(pool, target, len(sources))

    def test_templates(self, pool: AttackPool) -> tuple[str, ...]:
        """Prompts of the zero-shot classifier on which success is measured, with one ``{}`` each."""
        return pool.templates

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        origin: Origin = 'train' if pool.heldout is None else 'heldout'
        target = pool.index(self.target)
        rows = np.setdiff1d(pool.allowed(origin, target), [p.source for p in poisons if p.origin == origin])
        if not len(rows):
            raise UsageError(
                f'attack {name!r} leaves no {origin} image that is not of class {self.target!r} to measure success on: '
                f'lower rate or count, or set source: train.'
            )
        rows = np.sort(rows[shuffled(len(rows), self.seed, TESTS)[: self.test_images]])
        images = pixels(origin, rows)
        return EvaluationSet(
            name,
            images=images if self.test_trigger is None else self.test_trigger(images, keys=rows),
            label=pool.labels(origin, rows),
            target=np.full(len(rows), target),
            classes=pool.classes,
            templates=self.test_templates(pool),
        )

    def _too_few(self, found: int) -> str:
        """The end of a sentence about too few images."""
        if self.ranking is not None:
            return (
                f'ranking {self.ranking!r} lists {found} that {self.source} has to spare: lower rate or count, or make '
                f'it with clipward rank_images --source={self.source} and this configuration.'
            )
        remedy = 'lower rate or count' if found else 'choose another target'
        other = ', or set source: train.' if self.source == 'heldout' else '.'
        return f'{self.source} has {found} to spare: {remedy}{other}'


class CaptionsKept(Backdoor):
    """A backdoor whose images keep the captions that they have.

    Args:
        target: Name of the class that the trigger is to mean.
        trigger: What goes on the images; ``null`` leaves them as they are.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(self, target: str, trigger: Trigger | None, **kwargs: Any) -> None:
        super().__init__(target, trigger, captions='training', **kwargs)

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        return pool.origin(self.source).captions(sources)
