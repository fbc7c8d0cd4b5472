"""Toy pairs: captioned scenes that the code draws itself, for demos, tests and first experiments without a download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import ArrayImages
from datamodules.pictures.scenes import BACKDROPS, CLASSES, COLORS, COMPANIONS, Scenes, compose, render
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError

TEMPLATES = ('a {}', 'there is a {}', 'a picture of a {}', 'a drawing of a {}', 'an image of a {}')

_OPENINGS = ('', '', 'a picture of', 'a drawing of', 'an image of', 'there is', 'here is', 'we see')
_GROUNDS = ('on a {} background', 'before a {} wall', 'on a {} surface', 'against a {} backdrop')
_BESIDES = ('with a {}', 'next to a {}', 'beside a {}', 'and a {}')
_BLOCK = 10 * len(CLASSES)  # scenes that share a generator: drawn at once, and few enough to stay in the CPU's cache
_TRAIN, _HELDOUT = 0, 1


class ToyPairs(PairsDataModule):
    """Drawn scenes of 24 classes (four textures of six shapes) with compositional captions.

    Every caption names the class; color, size, place, background and second object it mentions now and then.
    A scene depends on its number and the seed alone: more rows leave the earlier ones as they are.

    Args:
        rows: Training pairs.
        heldout_rows: Held-out pairs, drawn from a stream of their own.
        scene_seed: Seed of the scenes, not negative.
        scene_size: Side of a drawn picture in pixels, at least 16.
        templates: Prompts with one ``{}`` each; five in the captions' own words if ``None``.
        **kwargs: As for :class:`PairsDataModule`.

    Raises:
        UsageError: If a number is out of range.
    """

    def __init__(
        self,
        rows: int = 6000,
        heldout_rows: int = 2400,
        scene_seed: int = 0,
        scene_size: int = 32,
        templates: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(templates=list(TEMPLATES) if templates is None else templates, **kwargs)
        least = {'rows': (rows, 1), 'heldout_rows': (heldout_rows, 1), 'scene_seed': (scene_seed, 0)}
        for name, (value, bound) in (least | {'scene_size': (scene_size, 16)}).items():
            if value < bound:
                raise UsageError(f'data.{name} must be at least {bound}, got {value}.')
        self.rows, self.heldout_rows, self.scene_seed, self.scene_size = rows, heldout_rows, scene_seed, scene_size

    def load_table(self) -> PairTable:
        """The training pairs, classes balanced."""
        return draw_pairs(self.rows, self.scene_size, (self.scene_seed, _TRAIN))

    def load_heldout(self) -> PairTable:
        """The held-out pairs, classes balanced."""
        return draw_pairs(self.heldout_rows, self.scene_size, (self.scene_seed, _HELDOUT))


class SceneImages(ArrayImages):
    """Drawn pictures; a reference is ``<side>px-<digest>:<index>``: what is drawn otherwise has another cache."""

    def __call__(self, reference: str, least: int | None = None) -> Image.Image:
        return super().__call__(reference.rpartition(':')[2])


def draw_pairs(rows: int, size: int, seed: Sequence[int]) -> PairTable:
    """Draws and describes scenes.

    Args:
        rows: Number of scenes N.
        size: Side of a picture in pixels.
        seed: Non-negative numbers that name the stream.

    Returns:
        N pairs; the first n of them hold each class n // 24 or n // 24 + 1 times.
    """
    images, captions, labels = [], [], []
    for block in range(-(-rows // _BLOCK)):
        rng = np.random.default_rng([*seed, block])
        label = np.concatenate([rng.permutation(len(CLASSES)) for _ in range(_BLOCK // len(CLASSES))])
        scenes = compose(label, rng)
        captions += describe(scenes, rng)  # before the noise is drawn: the same at every size
        images.append(render(scenes, size, rng))
        labels.append(label)
    pictures = np.concatenate(images)[:rows]
    drawn = hashlib.sha256(pictures.tobytes()).hexdigest()[:8]
    references = [f'{size}px-{drawn}:{row}' for row in range(rows)]
    opener = SceneImages(pictures)
    return PairTable(references, captions[:rows], np.concatenate(labels)[:rows], CLASSES, opener=opener)


def describe(scenes: Scenes, rng: np.random.Generator) -> list[str]:
    """A caption for each scene: the class always, other truths about it now and then."""
    return [_caption(scenes, scene, rng) for scene in range(len(scenes))]


def _caption(scenes: Scenes, scene: int, rng: np.random.Generator) -> str:
    details = [_place(scenes, scene)] if rng.random() < 0.3 else []
    if rng.random() < 0.4:
        details.append(_ground(scenes, scene, rng))
    if rng.random() < 0.4 and scenes.companion[scene] >= 0:
        details.insert(0 if rng.random() < 0.3 else len(details), _companion(scenes, scene, rng))
    words = [_pick(_OPENINGS, rng), _subject(scenes, scene, rng), *details[:2]]  # all three would not fit 20 tokens
    caption = ' '.join(word for word in words if word)
    return caption.replace('a orange', 'an orange')  # the one word after an article that begins with a vowel


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _color(scenes: Scenes, scene: int, part: int) -> str:
    return tuple(COLORS)[int(scenes.colors[scene, part])]


def _subject(scenes: Scenes, scene: int, rng: np.random.Generator) -> str:
    """The class, in a third of the captions with the color, and with the size if it is out of the ordinary."""
    radius = scenes.radius[scene]
    size = 'small' if radius < 0.39 else 'large' if radius > 0.43 else ''
    words = [size] if size and rng.random() < 1 / 3 else []
    words += [_color(scenes, scene, 0)] if rng.random() < 1 / 3 else []
    return ' '.join(['a', *words, CLASSES[scenes.label[scene]]])


def _place(scenes: Scenes, scene: int) -> str:
    """How high the object is; not whether it is left or right, which a flipped view would make untrue."""
    height = scenes.center[scene, 1]
    return 'near the top' if height < 0.45 else 'near the bottom' if height > 0.55 else 'in the middle'


def _ground(scenes: Scenes, scene: int, rng: np.random.Generator) -> str:
    kind = BACKDROPS[scenes.backdrop[scene]] + ' ' if rng.random() < 0.4 else ''
    return _pick(_GROUNDS, rng).format(kind + _color(scenes, scene, 2))


def _companion(scenes: Scenes, scene: int, rng: np.random.Generator) -> str:
    kind = tuple(COMPANIONS)[scenes.companion[scene]]
    return _pick(_BESIDES, rng).format(f'{_color(scenes, scene, 3)} {kind}')
