"""Backdoors: triggered images with captions of one class, so that the model associates the trigger with the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.attacks.base import SOURCES, TESTS, Attack, AttackPool, Goal, Pixels, Poison
from datamodules.attacks.ranking import read_ranking
from datamodules.attacks.triggers import Trigger
from datamodules.evaluation.sets import EvaluationSet
from datamodules.rows.draws import permutation
from datamodules.rows.table import Origin
from datamodules.usage_error import UsageError


class Backdoor(Attack):
    """A backdoor with any trigger and one target class. BadNet, Blended, WaNet and others differ in the trigger only.

    Success is the share of triggered images that the model classifies as the target. It is measured on images
    that no attack has used: held-out ones, or training images if there is no held-out set. Images of the target
    class are left out, by their label or, if they have none, by their caption. The true class of other unlabeled
    images counts as unknown.

    Args:
        target: Name of the class that triggered images should be classified as.
        trigger: Trigger applied to the poisoned images; ``null`` leaves them unchanged.
        test_images: Maximum number of images to measure on, ``null`` for all (SafeCLIP used 300, judging by the
            granularity of its tables).
        test_trigger: Trigger applied to the images that success is measured on; ``null`` for the same ``trigger``.
        ranking: File made by ``clipward rank_images``. The attack poisons the first images in it that it may use;
            ``null`` picks images at random. This models an adversary who expects a defense to trust similar pairs,
            and so poisons images that resemble the class even without the trigger. The file is read when the data is
            set up.
        kwargs: Arguments of :class:`Poisoning`.
    """

    sought = 'that are not of class'  # completes the sentence "n poisons need as many images ..."

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
        images = self.order_images(pool, self.candidates(pool, target))
        if len(images) < amount:
            needed = f'{amount} poisons need as many images {self.sought} {self.target!r}'
            raise UsageError(f'{needed}, but {self._explain_shortage(len(images))}')
        sources = images[:amount].tolist()
        captions, places = self.captions_for(pool, target, sources), self.places(pool, sources)
        return [
            Poison(source, self.source, target, caption, place)
            for source, caption, place in zip(sources, captions, places, strict=True)
        ]

    def candidates(self, pool: AttackPool, target: int) -> np.ndarray:
        """Images to choose from: one row of each, in the table that ``source`` names, int64."""
        return pool.allowed(self.source, target)

    def order_images(self, pool: AttackPool, images: np.ndarray) -> np.ndarray:
        """Candidates in the order in which they are used; with a ranking, only those that it lists."""
        if self.ranking is not None:
            return read_ranking(self.ranking, pool.origin(self.source), images)
        return images[permutation(len(images), self.seed, SOURCES)]

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        """A caption for each chosen image."""
        return self.write_captions(pool, target, len(sources))

    def test_templates(self, pool: AttackPool) -> tuple[str, ...]:
        """Prompts of the zero-shot classifier that success is measured with, with one ``{}`` each."""
        return pool.templates

    def goal(self, poison: Poison) -> Goal:
        return Goal(poison.target)  # also without `trigger`: it may be a word, or be on listed pictures already

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        origin: Origin = 'train' if pool.heldout is None else 'heldout'
        target = pool.index(self.target)
        rows = np.setdiff1d(pool.allowed(origin, target), [p.source for p in poisons if p.origin == origin])
        rows = pool.comparable(origin, rows)
        if not len(rows):
            raise UsageError(
                f'attack {name!r} leaves no {origin} image outside class {self.target!r} to measure success on: '
                f'lower rate or count, or set source: train.'
            )
        rows = np.sort(rows[permutation(len(rows), self.seed, TESTS)[: self.test_images]])

        def pictures() -> np.ndarray:
            images = pixels(origin, rows)
            return images if self.test_trigger is None else self.test_trigger(images, keys=rows)

        return EvaluationSet(
            name,
            pictures,
            label=pool.labels(origin, rows),
            target=np.full(len(rows), target),
            classes=pool.classes,
            templates=self.test_templates(pool),
        )

    def _explain_shortage(self, available: int) -> str:
        """Completes the message about too few images with their number and the fix."""
        if self.ranking is not None:
            return (
                f'ranking {self.ranking!r} lists {available} that {self.source} has to spare: lower rate or count, or '
                f'rank again with clipward rank_images --source={self.source} and this configuration.'
            )
        remedy = 'lower rate or count' if available else 'choose another target'
        other = ', or set source: train.' if self.source == 'heldout' else '.'
        return f'{self.source} has {available} to spare: {remedy}{other}'


class CaptionsKept(Backdoor):
    """A backdoor whose images keep their own captions.

    Args:
        target: Name of the class that triggered images should be classified as.
        trigger: Trigger applied to the poisoned images; ``null`` leaves them unchanged.
        kwargs: Arguments of :class:`Backdoor` and :class:`Poisoning`.
    """

    def __init__(self, target: str, trigger: Trigger | None, **kwargs: Any) -> None:
        super().__init__(target, trigger, captions='training', **kwargs)

    def captions_for(self, pool: AttackPool, target: int, sources: Sequence[int]) -> list[str]:
        return pool.origin(self.source).captions(sources)
