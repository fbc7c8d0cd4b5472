from __future__ import annotations

import math

import numpy as np
import pytest

from datamodules.attacks import Sinusoid, Waves
from tests.datamodules.attacks.pools import checksum


def test_the_wave_has_the_published_values() -> None:
    wave = Waves(60).wave(224) / 255
    assert (wave[1], wave[9]) == (pytest.approx(0.039413, abs=1e-6), pytest.approx(0.234924, abs=1e-6))
    assert np.abs(wave).max() <= 60 / 255


def test_is_added_to_all_rows_and_channels_and_clipped() -> None:
    gray, white = (np.full((1, 3, 8, 224), value, np.uint8) for value in (128, 255))
    change = Waves()(gray).astype(int) - gray
    assert (change == np.rint(Waves().wave(224))).all()
    assert (change.min(), change.max()) == (-40, 40)
    assert (Waves()(white) == np.minimum(255 + np.rint(Waves().wave(224)), 255)).all()


def test_mixing_in_is_weaker_and_darkens() -> None:
    gray = np.full((1, 3, 8, 224), 128, np.uint8)
    mixed = Waves(60, ratio=0.2)(gray).astype(float)
    assert mixed.mean() == pytest.approx(0.8 * 128, abs=0.5)
    assert (mixed.max() - mixed.min()) / 2 == pytest.approx(12, abs=1)
    assert mixed.min() / 255 == pytest.approx(0.8 * 128 / 255 - 12 / 255, abs=0.003)


@pytest.mark.parametrize(
    'wrong',
    [{'amplitude': -1}, {'amplitude': 300}, {'amplitude': math.nan}, {'frequency': 0}, {'frequency': math.nan},
     {'frequency': math.inf}],
)  # fmt: skip
def test_refuses_values_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match=r'^amplitude must lie in \[0, 255\] and frequency be positive and finite, got'
    ):
        Waves(**wrong)
    with pytest.raises(ValueError, match='ratio must be a share'):
        Waves(ratio=2)


def test_the_default_never_changes() -> None:
    assert checksum(Waves()) == 'a4bbd051df1d14c7'
    assert checksum(Waves(60, ratio=0.2)) == '35f18a94c6261fd0'


def test_the_arguments_of_the_attack_go_to_its_trigger() -> None:
    attack = Sinusoid('dog', 60, 3, 0.2, count=1)
    assert attack.trigger is not None
    assert attack.trigger.describe() == Waves(60, 3, 0.2).describe()
