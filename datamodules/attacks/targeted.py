"""Targeted data poisoning (TDPA; Carlini & Terzis, 2022): makes the model misclassify a few chosen images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any

import numpy as np

from datamodules.attacks.base import CLASSES, MAX_CAPTION_USES, SOURCES, Attack, AttackPool, Pixels, Poison
from datamodules.evaluation.sets import EvaluationSet
from datamodules.rows.draws import permutation
from datamodules.usage_error import UsageError

_IMAGES_PER_TARGET = 4  # in a fold; more than one, as some show the target class or are taken


class TargetedPoison(Attack):
    """Copies of a few images, without any trigger, with captions of a class that they do not show.

    Success is measured on these very images, as the share that is classified as the class of the captions. With 16
    images it comes in steps of 1/16.

    Args:
        targets: Number of images; ``null`` means one per entry of ``classes`` or, without ``classes``, 16 as in the
            papers.
        classes: Class names, assigned to the images in turn. ``null`` draws a different class for each image, among
            the classes that enough training captions name.
        copies: Poisons of each image, instead of ``rate`` or ``count``, which are spread over the images evenly.
        rate: Poisons as a fraction of the clean pairs, in (0, 1]; 0 switches the attack off.
        count: Number of poisons; 0 switches the attack off.
        fold: Which part of the images to take targets from, counted from 0. Folds of one ``pool_seed`` share no
            image, so that runs can be repeated on fresh targets.
        pool_seed: Seed of the order in which images are dealt to folds.
        kwargs: Arguments of :class:`Poisoning`.

    Raises:
        UsageError: If not exactly one of ``copies``, ``rate`` and ``count`` is given, or a number is out of range.
    """

    further = ''  # what else a drawn class needs; continues an error message

    def __init__(
        self,
        targets: int | None = None,
        classes: list[str] | None = None,
        copies: int | None = None,
        rate: float | None = None,
        count: int | None = None,
        fold: int = 0,
        pool_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.targets = targets if targets is not None else len(classes) if classes else 16
        if self.targets < 1 or fold < 0 or (copies is not None and copies < 0):
            raise UsageError(
                f'targets must be 1 or more, fold and copies 0 or more, got {self.targets}, {fold} and {copies}.'
            )
        if copies is not None and (rate is not None or count is not None):
            raise UsageError(f'give exactly one of copies, rate and count, got {copies}, {rate} and {count}.')
        super().__init__(rate=rate, count=count if copies is None else copies * self.targets, **kwargs)
        self.classes, self.fold, self.pool_seed = classes, fold, pool_seed

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        if amount < self.targets:
            raise UsageError(
                f'{amount} poisons leave some of {self.targets} targets without any: '
                f'lower targets to at most {amount}, or raise rate or count.'
            )
        copies = np.array(spread(amount, self.targets))
        classes = np.array(self.choose_classes(pool, int(copies.max())))
        sources = np.repeat(self.choose_images(pool, classes.tolist()), copies).tolist()
        targets = np.repeat(classes, copies).tolist()
        captions = self._captions_by_class(pool, targets)
        return [
            Poison(source, self.source, target, next(captions[target]), place)
            for source, target, place in zip(sources, targets, self.places(pool, sources), strict=True)
        ]

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        target = {p.source: p.target for p in poisons}
        if not target:
            raise UsageError(f'attack {name!r} has selected no image to measure success on: it is switched off.')
        rows = np.array(list(target))
        return EvaluationSet(
            name,
            lambda: pixels(self.source, rows),
            label=pool.labels(self.source, rows),
            target=np.array(list(target.values())),
            classes=pool.classes,
            templates=pool.templates,
        )

    def choose_classes(self, pool: AttackPool, copies: int) -> list[int]:
        """The class that each image should be classified as, as indices into the pool's classes.

        Args:
            pool: What to choose from.
            copies: Captions that each drawn class must have.

        Raises:
            UsageError: If a named class does not exist, or too few classes have enough captions.
        """
        if self.classes:
            known = [pool.index(name) for name in self.classes]
            return [known[i % len(known)] for i in range(self.targets)]
        chosen: list[int] = []
        for index in permutation(len(pool.classes), self.seed, CLASSES).tolist():
            if len(chosen) < self.targets and pool.classes.count(pool.classes[index]) == 1:
                chosen += [index] if self.may_be_drawn(pool, index, copies) else []
        if len(chosen) < self.targets:
            raise UsageError(
                f'{self.targets} targets need a class each, but only {len(chosen)} of {len(pool.classes)} classes are '
                f'named by {copies} or more training captions{self.further}: lower targets, name classes (each caption '
                f'may then serve {MAX_CAPTION_USES} times, and each class several images), or set captions: templates.'
            )
        return chosen

    def may_be_drawn(self, pool: AttackPool, index: int, copies: int) -> bool:
        """Whether a class can be drawn as a target: enough training captions name it."""
        return self.captions == 'templates' or len(pool.captions_of(index)) >= copies

    def choose_images(self, pool: AttackPool, classes: Sequence[int]) -> list[int]:
        """Picks a different image of the fold for each class, one that does not show the class.

        Returns:
            Rows of the table that ``source`` names.

        Raises:
            UsageError: If the fold has too few images.
        """
        images = pool.images(self.source)
        size = _IMAGES_PER_TARGET * self.targets
        dealt = images[permutation(len(images), self.pool_seed, SOURCES)]
        fold = dealt[self.fold * size : (self.fold + 1) * size].tolist()
        chosen = []
        for target in classes:
            allowed = np.isin(fold, pool.allowed(self.source, target))
            image = next(compress(fold, allowed), None)
            if image is None:
                raise UsageError(
                    f'fold {self.fold} of the {len(images)} {self.source} images has too few usable ones for '
                    f'{self.targets} targets: lower fold or targets'
                    + (', or set source: train.' if self.source == 'heldout' else '.')
                )
            fold.remove(image)
            chosen.append(image)
        return chosen

    def _captions_by_class(self, pool: AttackPool, targets: Sequence[int]) -> dict[int, Iterator[str]]:
        """Captions for all poisons of a class at once, so that they share none before all have been used."""
        amounts = Counter(targets)
        return {target: iter(self.write_captions(pool, target, amount)) for target, amount in amounts.items()}


def spread(total: int, parts: int) -> list[int]:
    """Divides a number into whole parts that differ by at most 1, larger parts first."""
    return [total // parts + (part < total % parts) for part in range(parts)]
