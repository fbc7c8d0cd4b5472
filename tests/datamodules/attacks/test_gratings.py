from __future__ import annotations

import numpy as np

from datamodules.attacks.gratings import Grating, SlantedWaves
from datamodules.attacks.sinusoid import Waves
from tests.datamodules.attacks.pools import gradient


def test_waves_to_the_right_are_those_of_a_sinusoid() -> None:
    slanted, upright = SlantedWaves(60, 6, angle=0).wave(224), Waves(60, 6).wave(224)
    half_a_pixel = np.interp(np.arange(223) + 0.5, np.arange(224), upright)
    assert np.abs(slanted[:, :223] - half_a_pixel).max() < 0.3
    assert np.abs(SlantedWaves(60, 6, angle=90).wave(8).T - SlantedWaves(60, 6, angle=0).wave(8)).max() < 1e-9


def test_waves_change_every_picture_in_the_same_way() -> None:
    gray = np.full((2, 3, 8, 8), 100, np.uint8)
    trigger = SlantedWaves(40, 2, 30)
    assert (trigger(gray) == 100 + np.rint(trigger.wave(8)).astype(int)).all()
    assert trigger.parameters() == {'amplitude': 40, 'frequency': 2, 'angle': 30}


def test_a_grating_has_black_and_white_stripes_and_leaves_the_rest() -> None:
    picture = gradient(16)
    changed = Grating(4, 2, 0, 'top_left', margin=1)(picture)
    assert (changed[0, :, 1:5, 1:5] == np.array([255, 0, 255, 0])).all()
    changed[:, :, 1:5, 1:5] = picture[:, :, 1:5, 1:5]
    assert np.array_equal(changed, picture)
