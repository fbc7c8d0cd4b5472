from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.usage_error import UsageError
from lightning_modules.par import PAR, Embedded, bounded_push, squared_distances
from tests.helpers.tiny import tiny_architecture, unit_rows


def test_distances_of_unit_rows_are_twice_one_minus_the_cosine() -> None:
    rows, others = unit_rows(5, 4, seed=0), unit_rows(5, 4, seed=1)
    assert torch.allclose(squared_distances(rows, others), 2 - 2 * (rows * others).sum(1))
    assert squared_distances(rows, -rows).tolist() == pytest.approx([4.0] * 5)


@pytest.mark.parametrize(('angle', 'loss', 'pushes'), [(0.5, -1.0, True), (0.4, -1.2, True), (-0.1, -2.15, False)])
def test_pushes_up_to_the_bound_and_no_further(angle: float, loss: float, pushes: bool) -> None:
    """A cosine of -0.075 is a squared distance of 2.15."""
    before = torch.tensor([[1.0, 0.0]])
    now = torch.tensor([[angle, math.sqrt(1 - angle**2)]], requires_grad=True)
    push = bounded_push(squared_distances(now, before), bound=2.15)
    push.backward()
    assert push.item() == pytest.approx(loss)
    assert now.grad is not None and bool(now.grad.abs().sum() > 0) == pushes


def test_the_loss_is_that_of_clip_minus_half_of_each_distance(tmp_path: Path) -> None:
    model = PAR(architecture=tiny_architecture(tmp_path))
    model._trainer = SimpleNamespace(world_size=1)
    image, text, before = unit_rows(18, 4, seed=0).view(3, 6, 4)
    model.before = Embedded(before, before)
    terms = model.losses(image[None], text[None], 6)
    assert terms['cross_modal'].item() == pytest.approx(model.cross_modal_loss(image[None], text[None]).item())
    for name, rows in (('push_image', image), ('push_text', text)):
        assert terms[name].item() == pytest.approx(-0.5 * min(2.15, squared_distances(rows, before).mean().item()))


def test_keeps_the_temperature(tmp_path: Path) -> None:
    trained = {name for name, p in PAR(architecture=tiny_architecture(tmp_path)).named_parameters() if p.requires_grad}
    assert 'towers.logit_scale' not in trained and trained
    assert not any(name.startswith('poisoned') for name in trained)


@pytest.mark.parametrize(('argument', 'value'), [('bound', 0.0), ('bound', 4.1), ('push_weight', -1.0)])
def test_refuses_numbers_out_of_range(argument: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf'^model\.{argument} must '):
        PAR(**{argument: value})
