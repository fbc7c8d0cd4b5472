"""Small tables that attacks can choose from, and a small attack."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from datamodules.attacks import Attack, AttackPool, Pixels, Poison, Trigger
from datamodules.evaluation.sets import EvaluationSet
from datamodules.pictures.images import ArrayImages
from datamodules.rows.table import Origin, PairTable

CLASSES = ('cat', 'dog', 'boat', 'ice cream', 'truck')
SIDE = 12


def gradient(side: int = 224) -> np.ndarray:
    """One image of known pixels: red grows to the right, green downwards, blue along the diagonal."""
    y, x = np.indices((side, side))
    last = side - 1
    return np.stack([255 * x // last, 255 * y // last, (x + y) % 256]).astype(np.uint8)[None]


def checksum(trigger: Trigger) -> str:
    """Hash of :func:`gradient` with a trigger on it."""
    return hashlib.sha256(trigger(gradient(), keys=[7]).tobytes()).hexdigest()[:16]


def pictures(origin: Origin, count: int) -> np.ndarray:
    """uint8 (count, 3, SIDE, SIDE), different for each table and row."""
    rng = np.random.default_rng(('train', 'heldout').index(origin))
    return rng.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)


def pixels(origin: Origin, rows: np.ndarray) -> np.ndarray:
    """What a datamodule would read from its cache."""
    return np.asarray(pictures(origin, 2000)[rows])


def opener(origin: Origin, count: int) -> ArrayImages:
    """Opens the same pictures one by one."""
    return ArrayImages(pictures(origin, count).transpose(0, 2, 3, 1))


def labeled_table(origin: Origin, count: int) -> PairTable:
    """Row r shows class r modulo 5, and its caption names it."""
    label = np.arange(count) % len(CLASSES)
    captions = [f'picture {row} of a {CLASSES[c]}' for row, c in enumerate(label)]
    return PairTable([str(r) for r in range(count)], captions, label, CLASSES, opener=opener(origin, count))


def labeled_pool(train: int = 200, heldout: int | None = 100) -> AttackPool:
    """Labeled training and held-out pairs."""
    heldout_table = None if heldout is None else labeled_table('heldout', heldout)
    return AttackPool(labeled_table('train', train), heldout_table, CLASSES)


def captioned_table(origin: Origin, images: int) -> PairTable:
    """Unlabeled, two captions an image: rows 2i and 2i + 1 have image i, and only the second names its class."""
    captions = [
        caption
        for image in range(images)
        for caption in (f'a nice shot, number {image}', f'look, {CLASSES[image % 5]}s again')
    ]
    image = [str(row // 2) for row in range(2 * images)]
    return PairTable(image, captions, opener=opener(origin, images))


def captioned_pool(train: int = 100, heldout: int = 50) -> AttackPool:
    """Unlabeled training and held-out pairs; the arguments count images."""
    return AttackPool(captioned_table('train', train), captioned_table('heldout', heldout), CLASSES)


class OneImage(Attack):
    """A minimal attack: copies of the first free image."""

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        source = int(pool.allowed(self.source, 0)[0])
        captions, places = self.write_captions(pool, 0, amount), self.places(pool, [source] * amount)
        return [Poison(source, self.source, 0, c, p) for c, p in zip(captions, places, strict=True)]

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        rows = np.unique([poison.source for poison in poisons])
        labels, targets = pool.labels(self.source, rows), np.zeros(len(rows), np.int64)
        return EvaluationSet(name, pixels(self.source, rows), labels, targets, pool.classes, pool.templates)
