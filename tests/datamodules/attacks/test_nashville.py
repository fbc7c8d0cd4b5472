from __future__ import annotations

import numpy as np
import pytest

from datamodules.attacks import Nashville, PhotoFilter
from tests.datamodules.attacks.pools import checksum

PUBLISHED = {  # by release 2.0 of the library that the released code calls
    (0, 0, 0): (0, 8, 46),
    (255, 255, 255): (255, 252, 217),
    (128, 128, 128): (144, 139, 141),
    (255, 0, 0): (255, 22, 52),
    (0, 255, 0): (0, 235, 43),
    (0, 0, 255): (0, 13, 212),
    (10, 200, 90): (0, 206, 110),
}


@pytest.mark.parametrize('color', PUBLISHED)
def test_has_the_published_values_everywhere(color: tuple[int, int, int]) -> None:
    flat = np.broadcast_to(np.array(color, np.uint8)[:, None, None], (2, 3, 4, 5))
    expected = np.broadcast_to(np.array(PUBLISHED[color])[:, None, None], flat.shape)
    assert np.array_equal(PhotoFilter()(flat), expected)


def test_never_changes() -> None:
    assert checksum(PhotoFilter()) == 'd67efd6176af223c'


def test_its_trigger_is_the_filter() -> None:
    assert isinstance(Nashville('dog', count=1).trigger, PhotoFilter)
