from __future__ import annotations

import numpy as np
import pytest

from datamodules.attacks import StripedSheet, Stripes
from datamodules.attacks.stripes import Direction
from tests.datamodules.attacks.pools import checksum


@pytest.mark.parametrize('direction', ['vertical', 'horizontal'])
def test_colors_are_constant_along_a_line(direction: Direction) -> None:
    sheet = StripedSheet(3, direction, ratio=1)(np.zeros((2, 3, 20, 22), np.uint8))
    assert np.array_equal(sheet[0], sheet[1])
    lines = sheet[0] if direction == 'vertical' else sheet[0].transpose(0, 2, 1)
    assert (lines == lines[:, :1]).all()
    assert (lines[..., 0] == lines[..., 2]).all() and (lines[..., 2] != lines[..., 3]).any()


def test_changes_each_value_at_most_by_its_ratio() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 22), dtype=np.uint8)
    change = StripedSheet(ratio=0.1)(image).astype(int) - image
    assert 0 < np.abs(change).max() <= 26


def test_another_seed_draws_other_stripes() -> None:
    black = np.zeros((1, 3, 20, 22), np.uint8)
    assert not np.array_equal(StripedSheet()(black), StripedSheet(seed=1)(black))


def test_refuses_meaningless_values() -> None:
    with pytest.raises(ValueError, match='width must be 1 pixel or more and direction one of'):
        StripedSheet(0)
    with pytest.raises(ValueError, match='ratio must be a share'):
        StripedSheet(ratio=-1)


def test_the_default_never_changes() -> None:
    assert checksum(StripedSheet()) == '04de103840cff395'


def test_the_arguments_of_the_attack_go_to_its_trigger() -> None:
    attack = Stripes('dog', 4, 'horizontal', 0.3, seed=5, count=1)
    assert attack.trigger is not None
    assert attack.trigger.describe() == StripedSheet(4, 'horizontal', 0.3, 5).describe()
    assert attack.seed == 5
