from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from experiments.bench.phases import MODEL, OTHERS, TIMED, PartClock, describe, shares, timed


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The CPU time, which passes by hand."""
    now = [0.0]
    monkeypatch.setattr(time, 'process_time', lambda: now[0])
    return now


def test_a_part_inside_another_takes_its_time_away(now: list[float]) -> None:
    clock = PartClock()
    now[0] += 1
    with clock.part('pictures'):
        now[0] += 2
        with clock.part('captions'):
            now[0] += 4
        now[0] += 8
    now[0] += 16
    assert clock.restart() == {'rest': 17, 'pictures': 10, 'captions': 4}
    assert clock.restart() == {'rest': 0}


def test_the_backward_pass_is_booked_to_each_tower_in_turn(now: list[float]) -> None:
    """Each tower takes its own time, forward and backward; the loss takes what comes before the first of them."""

    class Work(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor, seconds: float) -> Tensor:
            ctx.seconds = seconds  # type: ignore[attr-defined]
            now[0] += seconds
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
            now[0] += 10 * ctx.seconds  # type: ignore[attr-defined]
            return gradient, None

    clock, weight = PartClock(), torch.ones(2, requires_grad=True)
    image, text, loss = (timed(clock, part, Work.apply)(weight, 1 + i) for i, part in enumerate(('image', 'text', 'x')))
    with clock.part('losses'):
        Work.apply((image + text).sum(), 4).backward()
    assert clock.restart() == {'rest': 0, 'image': 11, 'text': 22, 'x': 3, 'losses': 44}
    assert loss.grad_fn is not None


def test_shares_add_up_to_a_step() -> None:
    share = shares({'image tower': 3.0, 'views': 1.0})
    assert share['image tower'] == 75 and sum(share.values()) == 100
    assert describe(share, ('views', 'rest')) == 'views 25.0, rest 0.0'


def test_every_timed_part_is_shown() -> None:
    assert {*TIMED.values()} == {*MODEL, *OTHERS}
