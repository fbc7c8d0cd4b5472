from __future__ import annotations

import math
from itertools import combinations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from experiments.point_names import free_place, write_names


def test_names_of_close_points_cover_neither_each_other_nor_a_point_nor_a_bar() -> None:
    axis = Figure(figsize=(6, 4), layout='constrained').subplots()
    points = {f'method {index}': (0.01 * (index % 3), 0.5 + 0.008 * index) for index in range(12)} | {'far': (1.0, 0.7)}
    axis.plot(*zip(*points.values(), strict=True), 'o')
    bar = (0.8, 0.7), (1.0, 0.7)
    write_names(axis, points, [bar])
    boxes = [Text.get_window_extent(text) for text in axis.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    places = axis.transData.transform([*points.values()])
    assert not any(box.contains(*place) for box in boxes for place in places)
    assert not any(box.overlaps(Bbox(axis.transData.transform(bar))) for box in boxes)
    assert all(axis.bbox.contains(*corner) for box in boxes for corner in box.corners())


class TestFreePlace:
    inside = Bbox([[0, 0], [100, 100]])

    def test_is_beside_the_point_if_nothing_is_there(self) -> None:
        assert free_place((50, 50), (10, 4), [], self.inside, 1.0) == pytest.approx((50 + 6 + 5, 50))

    def test_keeps_off_the_edge_and_what_is_taken(self) -> None:
        x, _ = free_place((95, 50), (10, 4), [], self.inside, 1.0)
        assert x <= 95
        nearby = Bbox([[85, 40], [100, 60]])
        x, y = free_place((95, 50), (10, 4), [nearby], self.inside, 1.0)
        assert math.hypot(x - 95, y - 50) > 12 and (x <= 80 or abs(y - 50) >= 12)

    def test_is_the_first_if_everything_is_taken(self) -> None:
        assert free_place((50, 50), (10, 4), [self.inside], self.inside, 1.0) == pytest.approx((61, 50))
