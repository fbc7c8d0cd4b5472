"""Toy pairs: scenes that the code draws and captions itself, for demos, tests and first experiments."""

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
_BACKGROUND_PHRASES = ('on a {} background', 'before a {} wall', 'on a {} surface', 'against a {} backdrop')
_COMPANION_PHRASES = ('with a {}', 'next to a {}', 'beside a {}', 'and a {}')
_BLOCK_SCENES = 10 * len(CLASSES)  # drawn at once from one generator; few enough to stay in the CPU's cache
_TRAIN, _HELDOUT = 0, 1  # random streams


class ToyPairs(PairsDataModule):
    """Captioned scenes of 24 classes (four textures of six shapes), drawn in memory: needs no files and no download.

    Every caption names the class. Some also mention the color, the size, the place, the background or a second
    object. A scene depends only on its row and the seed, so asking for more rows does not change the earlier ones.

    Args:
        rows: Number of training pairs.
        heldout_rows: Number of held-out pairs, none of which is a training pair.
        scene_seed: Seed of the scenes, at least 0.
        scene_size: Side of a drawn picture in pixels, at least 16.
        templates: Prompts with one ``{}`` for the class. Defaults to five in the words of the captions.
        **kwargs: Arguments of :class:`PairsDataModule`.

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
        bounds = {'rows': (rows, 1), 'heldout_rows': (heldout_rows, 1), 'scene_seed': (scene_seed, 0)}
        for name, (value, minimum) in (bounds | {'scene_size': (scene_size, 16)}).items():
            if value < minimum:
                raise UsageError(f'data.{name} must be at least {minimum}, got {value}.')
        self.rows, self.heldout_rows, self.scene_seed, self.scene_size = rows, heldout_rows, scene_seed, scene_size

    def load_table(self) -> PairTable:
        """Draws the training pairs, with balanced classes."""
        return draw_pairs(self.rows, self.scene_size, (self.scene_seed, _TRAIN))

    def load_heldout(self) -> PairTable:
        """Draws the held-out pairs, with balanced classes."""
        return draw_pairs(self.heldout_rows, self.scene_size, (self.scene_seed, _HELDOUT))


class SceneImages(ArrayImages):
    """Drawn pictures; a reference is ``<side>px-<digest of pixels>:<index>``, so other drawings get other caches."""

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        return super().__call__(reference.rpartition(':')[2])


def draw_pairs(rows: int, size: int, seed: Sequence[int]) -> PairTable:
    """Draws and captions scenes.

    Args:
        rows: Number of scenes N.
        size: Side of a picture in pixels.
        seed: Non-negative numbers that select the random stream.

    Returns:
        N pairs; among the first n of them, each class occurs n // 24 or n // 24 + 1 times.

    Example:
        >>> table = draw_pairs(2, size=32, seed=(0, 0))
        >>> table.open(0).size, table.classes[table.label[0]] in table.captions([0])[0]
        ((32, 32), True)
    """
    images, captions, labels = [], [], []
    for block in range(-(-rows // _BLOCK_SCENES)):
        rng = np.random.default_rng([*seed, block])
        label = np.concatenate([rng.permutation(len(CLASSES)) for _ in range(_BLOCK_SCENES // len(CLASSES))])
        scenes = compose(label, rng)
        captions += describe(scenes, rng)  # before the noise is drawn, so that captions do not depend on the size
        images.append(render(scenes, size, rng))
        labels.append(label)
    pictures = np.concatenate(images)[:rows]
    digest = hashlib.sha256(pictures.tobytes()).hexdigest()[:8]
    references = [f'{size}px-{digest}:{row}' for row in range(rows)]
    opener = SceneImages(pictures)
    return PairTable(references, captions[:rows], np.concatenate(labels)[:rows], CLASSES, opener=opener)


def describe(scenes: Scenes, rng: np.random.Generator) -> list[str]:
    """Writes a true caption for each scene: always the class, sometimes other properties."""
    return [_describe_scene(scenes, scene, rng) for scene in range(len(scenes))]


def _describe_scene(scenes: Scenes, scene: int, rng: np.random.Generator) -> str:
    details = [_describe_height(scenes, scene)] if rng.random() < 0.3 else []
    if rng.random() < 0.4:
        details.append(_describe_background(scenes, scene, rng))
    if rng.random() < 0.4 and scenes.companion[scene] >= 0:
        details.insert(0 if rng.random() < 0.3 else len(details), _describe_companion(scenes, scene, rng))
    # All three details would not fit into 20 tokens.
    phrases = [_choose(_OPENINGS, rng), _describe_object(scenes, scene, rng), *details[:2]]
    caption = ' '.join(phrase for phrase in phrases if phrase)
    return caption.replace('a orange', 'an orange')  # the only word after an article that begins with a vowel


def _choose(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _color_name(scenes: Scenes, scene: int, part: int) -> str:
    return tuple(COLORS)[int(scenes.colors[scene, part])]


def _describe_object(scenes: Scenes, scene: int, rng: np.random.Generator) -> str:
    """Names the class; in a third of the captions also the color, and the size if it is unusual."""
    radius = scenes.radius[scene]
    size = 'small' if radius < 0.39 else 'large' if radius > 0.43 else ''
    words = [size] if size and rng.random() < 1 / 3 else []
    words += [_color_name(scenes, scene, 0)] if rng.random() < 1 / 3 else []
    return ' '.join(['a', *words, CLASSES[scenes.label[scene]]])


def _describe_height(scenes: Scenes, scene: int) -> str:
    """Says how high the object is; not whether it is left or right, which would be wrong for a flipped view."""
    height = scenes.center[scene, 1]
    return 'near the top' if height < 0.45 else 'near the bottom' if height > 0.55 else 'in the middle'


def _describe_background(scenes: Scenes, scene: int, rng: np.random.Generator) -> str:
    kind = BACKDROPS[scenes.backdrop[scene]] + ' ' if rng.random() < 0.4 else ''
    return _choose(_BACKGROUND_PHRASES, rng).format(kind + _color_name(scenes, scene, 2))


def _describe_companion(scenes: Scenes, scene: int, rng: np.random.Generator) -> str:
    kind = tuple(COMPANIONS)[scenes.companion[scene]]
    return _choose(_COMPANION_PHRASES, rng).format(f'{_color_name(scenes, scene, 3)} {kind}')
