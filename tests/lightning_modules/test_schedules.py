from __future__ import annotations

import pytest

from lightning_modules.schedules import Plan, Schedule, auto_slow_factor, auto_warmup, warmup_cosine

PEAK = 5e-4


@pytest.mark.parametrize(
    ('step', 'lr'), [(0, 5e-5), (9, 5e-4), (10, 5e-4), (60, 2.5e-4), (109, 1.2336e-7), (110, 0.0), (500, 0.0)]
)
def test_rises_then_falls(step: int, lr: float) -> None:
    assert PEAK * warmup_cosine(step, warmup=10, total=110) == pytest.approx(lr, rel=1e-4, abs=1e-15)


def test_warmup_can_be_zero() -> None:
    assert warmup_cosine(0, warmup=0, total=10) == 1


def test_warmup_may_be_longer_than_the_run() -> None:
    assert [warmup_cosine(step, warmup=10, total=4) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(('total', 'warmup'), [(0, 0), (9, 0), (100, 10), (100_000, 10_000), (300_000, 10_000)])
def test_auto_warmup_is_a_tenth_but_at_most_ten_thousand(total: int, warmup: int) -> None:
    assert auto_warmup(total) == warmup


@pytest.mark.parametrize(
    ('steps', 'factor'), [(0, 0.3), (1, 0.3), (39, 0.2564), (323, 0.03096), (1953, 0.01), (5859, 0.01)]
)
def test_slow_rate_is_inversely_proportional_to_the_steps(steps: int, factor: float) -> None:
    assert auto_slow_factor(steps) == pytest.approx(factor, rel=1e-3)


class TestSchedule:
    def test_slow_phase_is_constant(self) -> None:
        plan = Schedule(before=50, slow=10, after=60, slow_factor=0.01, warmup=10)
        assert [PEAK * plan(step) for step in range(50, 60)] == [5e-6] * 10

    def test_global_plan_continues_after_the_slow_phase(self) -> None:
        plan = Schedule(before=50, slow=10, after=60, slow_factor=0.01, warmup=10)
        without = Schedule(before=110, slow=0, after=0, warmup=10)
        around = [plan(step) for step in (*range(50), *range(60, 120))]
        assert around == [without(step) for step in range(110)]

    def test_plan_can_restart_after_the_slow_phase(self) -> None:
        plan = Schedule(before=20, slow=5, after=30, slow_factor=0.5, warmup=2, plan='restart_at_mixed')
        assert [plan(step) for step in range(20)] == [warmup_cosine(step, 2, 20) for step in range(20)]
        assert [plan(step) for step in range(25, 55)] == [warmup_cosine(step, 2, 30) for step in range(30)]

    @pytest.mark.parametrize('plan', ['global', 'restart_at_mixed'])
    @pytest.mark.parametrize(('before', 'slow', 'after'), [(0, 0, 40), (0, 5, 40), (40, 0, 0), (20, 20, 0), (1, 1, 1)])
    def test_stays_between_zero_and_the_peak(self, plan: Plan, before: int, slow: int, after: int) -> None:
        schedule = Schedule(before, slow, after, slow_factor=0.1, plan=plan)
        assert all(0 < schedule(step) <= 1 for step in range(before + slow + after))

    def test_an_extended_slow_phase_leaves_the_rest_as_it_was(self) -> None:
        planned, extended = Schedule(10, 5, 85, 0.1), Schedule(10, 5, 85, 0.1, extended=7)
        assert [extended(step) for step in range(15, 22)] == [0.1] * 7
        others = [*range(15), *range(22, 100)]
        assert [extended(step) for step in others] == [planned(step) for step in others]

    def test_auto_warmup_does_not_count_the_slow_steps(self) -> None:
        plan = Schedule(before=50, slow=100, after=50)
        assert plan(8) < 1 == plan(9)
