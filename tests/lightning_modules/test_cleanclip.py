from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.usage_error import UsageError
from lightning_modules.cleanclip import CleanCLIP
from lightning_modules.schedules import Schedule
from tests.helpers.tiny import tiny_architecture, unit_rows

EYE = torch.eye(4, dtype=torch.float64)
SHIFTED = EYE.roll(1, 0)


def cleanclip(folder: Path, scale: float = 10.0, **kwargs: Any) -> CleanCLIP:
    """A module that computes losses in one process at a given logit scale."""
    model = CleanCLIP(architecture=tiny_architecture(folder), **kwargs)
    model._trainer = SimpleNamespace(world_size=1)
    with torch.no_grad():
        model.towers.logit_scale.fill_(math.log(scale))
    return model


def loss_of(model: CleanCLIP, image: list[Tensor], text: list[Tensor]) -> float:
    return sum(loss.item() for loss in model.losses(torch.stack(image), torch.stack(text), len(image[0])).values())


class TestLoss:
    """Known values, computed in float64."""

    def test_has_the_known_values(self, tmp_path: Path) -> None:
        model = cleanclip(tmp_path)
        assert loss_of(model, [EYE, EYE], [EYE, EYE]) == pytest.approx(2 * 1.361905e-4, abs=1e-6)
        assert loss_of(model, [EYE, SHIFTED], [EYE, SHIFTED]) == pytest.approx(10.000272, abs=1e-6)

    def test_is_one_way_from_the_clean_view(self, tmp_path: Path) -> None:
        model, (clean, augmented) = cleanclip(tmp_path, scale=3), unit_rows(10, 4, seed=0).view(2, 5, 4)
        expected = torch.nn.functional.cross_entropy(3 * clean @ augmented.T, torch.arange(5))
        assert model.in_modal_loss(torch.stack([clean, augmented])).item() == pytest.approx(expected.item(), abs=1e-6)

    def test_weights_its_terms_and_drops_those_without_weight(self, tmp_path: Path) -> None:
        views = torch.stack([EYE, SHIFTED]), torch.stack([EYE, SHIFTED])
        terms = cleanclip(tmp_path, in_modal_weight=0.5, cross_modal_weight=2.0).losses(*views, 4)
        assert terms['in_modal'].item() == pytest.approx(5.000068, abs=1e-6)
        assert terms['cross_modal'].item() == pytest.approx(2 * 1.361905e-4, abs=1e-6)
        assert cleanclip(tmp_path, cross_modal_weight=0.0).losses(*views, 4).keys() == {'in_modal'}
        assert cleanclip(tmp_path, in_modal_weight=0.0).losses(*views, 4).keys() == {'cross_modal'}


def test_takes_a_second_view_only_where_it_is_used(tmp_path: Path) -> None:
    assert cleanclip(tmp_path).sides(0) == {'cross_modal': 2}
    assert cleanclip(tmp_path, in_modal_weight=0.0).sides(0) == {'cross_modal': 1}


def test_refuses_weights_that_leave_no_loss() -> None:
    with pytest.raises(UsageError, match=r'in_modal_weight and model\.cross_modal_weight are both 0: raise one'):
        CleanCLIP(in_modal_weight=0.0, cross_modal_weight=0.0)
    with pytest.raises(UsageError, match=r'model\.in_modal_weight must be at least 0'):
        CleanCLIP(in_modal_weight=-1.0)


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    """100,000 pairs at batch size 64 for ten epochs; the released code has 0.977 at the start, 0.025 at the end."""
    rate = Schedule(15620, 0, 0, warmup=50)
    assert [rate(0), rate(49)] == [0.02, 1.0] and rate(15619) < 1e-7
