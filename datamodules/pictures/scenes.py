"""Draw scenes: a textured shape on a background, with a small object beside it.

A class is a texture and a shape, never a color, so that color jitter and grayscale do not change it. Position, size,
rotation, colors, background and the second object vary freely. A caption may mention them, and a model has to ignore
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

_OVERSAMPLING = 2  # outlines are drawn at twice the resolution and averaged
_CLOUD_WAVES = 3  # waves that make up a cloudy background

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Mask = Callable[[Floats, Floats], Bools]


def _circle(x: Floats, y: Floats) -> Bools:
    return x**2 + y**2 < 0.85


def _bar(x: Floats, y: Floats) -> Bools:
    return (np.abs(x) < 1.05) & (np.abs(y) < 0.45)


def _triangle(x: Floats, y: Floats) -> Bools:
    return (y < 0.75) & (np.abs(x) < 0.57 * (y + 1.05))


def _star(x: Floats, y: Floats) -> Bools:
    """A star of five points, one of them up; its outline is one edge from tip to notch, mirrored and rotated."""
    angle, sector = np.arctan2(x, -y), 2 * math.pi / 5
    folded = np.abs(np.mod(angle + sector / 2, sector) - sector / 2)  # angle from the nearest tip
    radius, notch = np.hypot(x, y), 0.5
    dx, dy = notch * math.cos(sector / 2) - 1.1, notch * math.sin(sector / 2)
    return dx * radius * np.sin(folded) - dy * (radius * np.cos(folded) - 1.1) > 0


def _cross(x: Floats, y: Floats) -> Bools:
    x, y = np.abs(x), np.abs(y)
    return (np.minimum(x, y) < 0.36) & (np.maximum(x, y) < 1)


def _moon(x: Floats, y: Floats) -> Bools:
    return (x**2 + y**2 < 1) & ((x - 0.6) ** 2 + y**2 > 0.6)


def _plain(x: Floats, y: Floats) -> Bools:
    return np.zeros(x.shape, bool)


def _striped(x: Floats, y: Floats) -> Bools:
    return np.mod(x, 1) < 0.5


def _dotted(x: Floats, y: Floats) -> Bools:
    x, y = 0.8 * x, 0.8 * y  # wider apart than checks, as the two look alike in small pictures
    return (np.mod(x, 1) - 0.5) ** 2 + (np.mod(y, 1) - 0.5) ** 2 < 0.09


def _checkered(x: Floats, y: Floats) -> Bools:
    return (np.mod(x, 1) < 0.5) ^ (np.mod(y, 1) < 0.5)


def _ball(x: Floats, y: Floats) -> Bools:
    return x**2 + y**2 < 1


def _stick(x: Floats, y: Floats) -> Bools:
    return (np.abs(x) < 1.7) & (np.abs(y) < 0.45)


def _ring(x: Floats, y: Floats) -> Bools:
    return np.abs(np.hypot(x, y) - 0.95) < 0.32


SHAPES: dict[
    str, Mask
] = {  # whether a point is inside, in coordinates where the shape roughly fills [-1, 1], y downwards
    'circle': _circle,
    'bar': _bar,
    'triangle': _triangle,
    'star': _star,
    'cross': _cross,
    'moon': _moon,
}
TEXTURES: dict[str, Mask] = {  # whether a point is inked, in coordinates whose unit is the period
    'plain': _plain,
    'striped': _striped,
    'dotted': _dotted,
    'checkered': _checkered,
}
COMPANIONS: dict[str, Mask] = {'ball': _ball, 'stick': _stick, 'ring': _ring}  # no class has one of these names
BACKDROPS = ('smooth', 'fading', 'cloudy', 'grainy')
COLORS = {
    'red': (205, 40, 45),
    'orange': (240, 140, 30),
    'yellow': (245, 215, 60),
    'green': (50, 150, 70),
    'blue': (45, 80, 200),
    'purple': (125, 50, 160),
    'pink': (245, 150, 185),
    'brown': (115, 70, 35),
    'teal': (40, 160, 165),
    'grey': (130, 130, 130),  # captions use this word: the US spelling would change every published result
    'white': (242, 242, 242),
    'black': (25, 25, 25),
}
CLASSES = tuple(f'{texture} {shape}' for shape in SHAPES for texture in TEXTURES)

_PALETTE = np.array(list(COLORS.values()), np.float32)
_LUMA = _PALETTE @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as in grayscale views


def _differ_in_grayscale(body: int, ink: int, ground: int) -> bool:
    """Tells whether texture and outline show in grayscale, the background being darkest or lightest of the three."""
    from_ink, from_body, between = _LUMA[ink] - _LUMA[ground], _LUMA[body] - _LUMA[ground], _LUMA[body] - _LUMA[ink]
    return bool(abs(between) > 80 and min(abs(from_ink), abs(from_body)) > 30 and from_ink * from_body > 0)


_COLOR_SCHEMES = np.array(
    [scheme for scheme in permutations(range(len(COLORS)), 3) if _differ_in_grayscale(*scheme)]
)  # body, ink, background


@dataclass(frozen=True)
class Scenes:
    """The content of N scenes; lengths and positions are fractions of the side, y downwards.

    Attributes:
        label: Class as an index into ``CLASSES``, int64 (N,).
        center: Center of the main object, (N, 2) as x and y.
        radius: Half the width of the main object, (N,).
        turn: Rotation of the main object in radians, (N,).
        period: Distance between two stripes or dots, (N,).
        slant: Direction of the stripes or rows of dots in radians, (N,).
        phase: Offset of the texture in periods, (N, 2).
        contrast: Strength of the ink, from 0 (invisible) to 1, (N,).
        colors: Colors of object, ink, background and companion, (N, 4) as indices into ``COLORS``.
        backdrop: Kind of the background as an index into ``BACKDROPS``, (N,).
        companion: Second object as an index into ``COMPANIONS``, -1 for none, (N,).
        beside: Center of the second object, (N, 2).
    """

    label: Integers
    center: Floats
    radius: Floats
    turn: Floats
    period: Floats
    slant: Floats
    phase: Floats
    contrast: Floats
    colors: Integers
    backdrop: Integers
    companion: Integers
    beside: Floats

    def __len__(self) -> int:
        return len(self.label)


def compose(label: Integers, rng: np.random.Generator) -> Scenes:
    """Draws the content of scenes at random.

    Args:
        label: Class of each scene as an index into ``CLASSES``, (N,).
        rng: Random generator.
    """
    count = len(label)
    radius = rng.uniform(0.36, 0.46, count)
    room = 0.5 * (1 - 1.7 * radius[:, None])  # only half is used: with all of it, shapes take far more steps to learn
    center = 0.5 + room * rng.uniform(-0.5, 0.5, (count, 2))
    faded = rng.random(count) < 0.05  # texture hardly visible: as in real data, no model gets all of them right
    return Scenes(
        label=label,
        center=center,
        radius=radius,
        turn=rng.uniform(-0.25, 0.25, count),
        period=rng.uniform(0.16, 0.21, count),
        slant=rng.uniform(0, math.pi, count),
        phase=rng.random((count, 2)),
        contrast=np.where(faded, rng.uniform(0, 0.1, count), 1),
        colors=np.column_stack(
            [_COLOR_SCHEMES[rng.integers(len(_COLOR_SCHEMES), size=count)], rng.integers(len(COLORS), size=count)]
        ),
        backdrop=rng.integers(len(BACKDROPS), size=count),
        companion=rng.integers(-1, len(COMPANIONS), size=count),
        beside=_place_companions(center, rng),
    )


def _place_companions(center: Floats, rng: np.random.Generator) -> Floats:
    """Places second objects: of four random positions, the one farthest from the main object, (N, 2)."""
    positions = rng.uniform(0.08, 0.92, (len(center), 4, 2))
    distance = np.linalg.norm(positions - center[:, None], axis=-1)
    farthest: Floats = positions[np.arange(len(center)), distance.argmax(1)]
    return farthest


def render(scenes: Scenes, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draws scenes.

    Args:
        scenes: Content of N scenes.
        size: Side S of a picture in pixels.
        rng: Random generator for shades and noise.

    Returns:
        uint8 (N, S, S, 3).
    """
    count = len(scenes)
    cover = _coverage(scenes, size)  # (N, S, S, 4): share of a pixel that shows each of the four colors
    color = _PALETTE[scenes.colors] + rng.normal(0, 10, (count, 4, 3)).astype(np.float32)
    color[:, 1] += (1 - _per_scene(scenes.contrast)[:, 0]) * (color[:, 0] - color[:, 1])
    picture = (cover.reshape(count, -1, 4) @ color).reshape(count, size, size, 3)
    picture += cover[..., 2:3] * _shade(scenes, size, rng)[..., None]
    grainy = scenes.backdrop == BACKDROPS.index('grainy')
    strength = _per_scene(rng.uniform(2, 8, count)) + cover[..., 2] * _per_scene(12 * grainy)
    picture += strength[..., None] * rng.standard_normal(picture.shape, np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _coverage(scenes: Scenes, size: int) -> Floats:
    """Computes the share of object, ink, background and companion in each pixel, (N, S, S, 4), sum 1."""
    fine = ((np.arange(size * _OVERSAMPLING, dtype=np.float32) + 0.5) / (size * _OVERSAMPLING))[None]
    shape, texture = np.divmod(scenes.label, len(TEXTURES))
    outline = _to_object_coordinates(fine, scenes.center, scenes.turn, scenes.radius)
    weave = _to_object_coordinates(fine, scenes.center, scenes.slant, scenes.period)
    weave = (weave[0] + _per_scene(scenes.phase[:, 0]), weave[1] + _per_scene(scenes.phase[:, 1]))
    companion = _to_object_coordinates(fine, scenes.beside, scenes.slant, np.full(len(scenes), 0.075))
    body = _select_masks(tuple(SHAPES.values()), shape, *outline)
    ink = body & _select_masks(tuple(TEXTURES.values()), texture, *weave)
    beside = ~body & _select_masks(tuple(COMPANIONS.values()), scenes.companion, *companion)
    share, inked, other = (_average(mask, size) for mask in (body, ink, beside))
    return np.stack([share - inked, inked, 1 - share - other, other], -1)


def _select_masks(kinds: tuple[Mask, ...], kind: Integers, x: Floats, y: Floats) -> Bools:
    """Evaluates the mask of each scene's kind, bool (N, H, W); empty where the kind is -1."""
    mask = np.zeros(x.shape, bool)
    for number, inside in enumerate(kinds):
        chosen = kind == number
        mask[chosen] = inside(x[chosen], y[chosen])
    return mask


def _average(mask: Bools, size: int) -> Floats:
    """Averages an oversampled mask to the share of each pixel that it covers, float32 (N, S, S)."""
    share = np.zeros((len(mask), size, size), np.float32)
    for row in range(_OVERSAMPLING):
        for column in range(_OVERSAMPLING):
            share += mask[:, row::_OVERSAMPLING, column::_OVERSAMPLING]
    return share / _OVERSAMPLING**2


def _shade(scenes: Scenes, size: int, rng: np.random.Generator) -> Floats:
    """Computes the shading of the background in gray levels, float32 (N, S, S).

    A fading background has one slow wave, a cloudy one several faster ones; all are far slower than stripes.
    """
    fading, cloudy = (_per_scene(scenes.backdrop == BACKDROPS.index(kind)) for kind in ('fading', 'cloudy'))
    position = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    shade = np.zeros((len(scenes), size, size), np.float32)
    for wave in range(_CLOUD_WAVES):
        height = 14 * cloudy + (45 * fading if wave == 0 else 0)
        cycles = np.where(cloudy, 2.0, 0.35)[:, 0, 0] * rng.uniform(0.6, 1.2, len(scenes))
        angle, start = rng.uniform(0, 2 * math.pi, (2, len(scenes)))
        along, _ = _to_object_coordinates(position[None], np.zeros((len(scenes), 2)), angle, 1 / (2 * math.pi * cycles))
        shade += height * np.sin(along + cloudy * _per_scene(start))  # a fading one has its own color in the center
    return shade


def _per_scene(values: Floats | Integers | Bools) -> Floats:
    """Reshapes one number for each scene so that it broadcasts over pixels: (N,) -> float32 (N, 1, 1)."""
    return values.astype(np.float32)[:, None, None]


def _to_object_coordinates(position: Floats, center: Floats, turn: Floats, unit: Floats) -> tuple[Floats, Floats]:
    """Transforms every point to coordinates with an object's center as origin, its unit of length and its rotation."""
    x, y = position[:, None, :] - _per_scene(center[:, 0]), position[:, :, None] - _per_scene(center[:, 1])
    cos, sin = _per_scene(np.cos(turn) / unit), _per_scene(np.sin(turn) / unit)
    return cos * x + sin * y, cos * y - sin * x
