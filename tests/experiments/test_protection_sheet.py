from __future__ import annotations

import numpy as np

from experiments.protection_sheet import ProtectedPair, enlarge_noise, protection_sheet


def test_noise_is_enlarged_around_gray() -> None:
    clean = np.array([100, 100, 100, 255, 3], np.uint8)
    protected = np.array([100, 108, 92, 250, 12], np.uint8)
    assert enlarge_noise(clean, protected).tolist() == [128, 255, 0, 48, 255]


def test_a_row_shows_clean_noise_and_protected_with_both_captions() -> None:
    clean = np.full((3, 4, 4), 100, np.uint8)
    pairs = [ProtectedPair(clean, clean + 2, 'a $dog', 'the red tv a $dog'), ProtectedPair(clean, clean, 'a', 'a')]
    axes = protection_sheet(pairs).axes
    assert [axis.get_title() for axis in axes] == ['clean', 'noise x 16, gray is none', 'protected', '', '', '']
    assert [int(axis.images[0].get_array().max()) for axis in axes] == [100, 160, 102, 100, 128, 100]
    assert [axis.get_xlabel() for axis in axes[:3]] == ['a $dog', '', 'the red tv a $dog']
