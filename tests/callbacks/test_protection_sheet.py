from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from callbacks.figures import Figures
from callbacks.protection_sheet import ProtectedPair, enlarge_noise, protection_sheet, sample_protected_pairs
from lightning_modules.unlearnable import MEM
from tests.lightning_modules.unlearnable_runs import build, fit


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


@pytest.mark.filterwarnings('ignore:Checkpoint directory')
def test_a_run_draws_what_it_has_protected_so_far(tmp_path: Path) -> None:
    module = build(tmp_path, MEM)
    fit(tmp_path, module, callbacks=(Figures(examples=3),), logger=CSVLogger(tmp_path / 'log', name='', version=''))
    assert (tmp_path / 'log/figures/protected.png').is_file()
    pairs = sample_protected_pairs(module.protection, 3)
    assert len(pairs) == 3
    for pair in pairs:
        assert 0 < np.abs(pair.protected.astype(int) - pair.clean).max() <= module.settings.eps
        words = pair.protected_caption.removesuffix(pair.caption).split()
        assert len(words) == module.settings.trigger_length and pair.protected_caption.endswith(pair.caption)
