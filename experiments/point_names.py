"""Names beside the points of a figure, which cover neither each other nor a point nor its bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

DISTANCES = (6, 12, 20, 30, 42, 56, 72, 90)  # of a name from its point, the first that is free, in 1/72 inch
DIRECTIONS = 16
REACH = 4  # half the side of the square that a point covers, in 1/72 inch
GAP = 2  # around a name, in 1/72 inch

Place = tuple[float, float]


def write_names(axis: Axes, points: Mapping[str, Place], bars: Sequence[tuple[Place, Place]] = ()) -> None:
    """Writes a name beside each point, and a line between them.

    Args:
        axis: Axes with final limits, in a figure that is otherwise finished.
        points: Name -> point, in units of the data.
        bars: Lower left and upper right ends of lines that names do not cover either.
    """
    figure = cast(Figure, axis.figure)
    unit = figure.dpi / 72  # pixels
    figure.draw_without_rendering()  # only then are the places of points known
    places = {name: tuple(axis.transData.transform(point)) for name, point in points.items()}
    taken = [_box(place, (2 * REACH * unit, 2 * REACH * unit)) for place in places.values()]
    taken += [Bbox(axis.transData.transform(ends)) for ends in bars]
    for name, (x, y) in places.items():
        text = axis.annotate(
            name, points[name], (0, 0), textcoords='offset points', ha='center', va='center', fontsize='small',
            parse_math=False, arrowprops={'arrowstyle': '-', 'color': '0.6', 'linewidth': 0.6, 'shrinkB': REACH},
        )  # fmt: skip
        extent = text.get_window_extent()
        size = extent.width + 2 * GAP * unit, extent.height + 2 * GAP * unit
        center = free_place((x, y), size, taken, axis.bbox, unit)
        taken.append(_box(center, size))
        text.set_position(((center[0] - x) / unit, (center[1] - y) / unit))
        text.set_in_layout(False)


def free_place(point: Place, size: Place, taken: Sequence[Bbox], inside: Bbox, unit: float) -> Place:
    """Center of the free place for a name that is nearest to its point, or the first one tried if none is free.

    Args:
        point: The point.
        size: Width and height of the name.
        taken: What it must not cover.
        inside: What it must not leave.
        unit: Length of 1/72 inch in units of the others.
    """
    turns = (2 * math.pi * turn / DIRECTIONS for turn in range(DIRECTIONS))
    centers = [
        (
            point[0] + math.cos(turn) * (distance * unit + size[0] / 2),
            point[1] + math.sin(turn) * (distance * unit + size[1] / 2),
        )
        for distance, turn in product(DISTANCES, turns)
    ]
    boxes = {center: _box(center, size) for center in centers}
    free = (
        center
        for center, box in boxes.items()
        if not box.count_overlaps(taken) and inside.containsx(box.x0) and inside.containsx(box.x1)
        and inside.containsy(box.y0) and inside.containsy(box.y1)
    )  # fmt: skip
    return next(free, centers[0])


def _box(center: Place, size: Place) -> Bbox:
    (x, y), (width, height) = center, size
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
