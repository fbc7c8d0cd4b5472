from __future__ import annotations

import pytest

from datamodules.usage_error import UsageError
from experiments.meter_figure import ESTIMATES, Estimated, estimated_leaks, leak_against_estimate
from experiments.results import Result

SERIES = {
    'partition/null_leak': [(6, 0.05), (10, 0.1)],
    'canary/evident_leak': [(6, 0.02), (10, 0.3)],
    'partition/leak/badnet': [(6, 0.0), (10, 0.4)],
    'partition/leak/tdpa': [(6, 0.1), (10, 0.1), (14, 0.2)],
}
RUN = Result('safe', 1, 14, SERIES, 0.0)


def test_every_split_with_an_estimate_is_a_point_for_each_attack() -> None:
    alone, both = (estimated_leaks([RUN], metrics) for metrics in ESTIMATES.values())
    assert alone[:2] == [Estimated('badnet', 0.05, 0.0), Estimated('badnet', 0.1, 0.4)]
    assert [point.estimate for point in both] == [0.05, 0.3, 0.05, 0.3]


def test_titles_say_how_far_the_estimate_can_be_trusted() -> None:
    alone, both = (axis.get_title() for axis in leak_against_estimate([RUN]).axes)
    assert '4 leaks' in alone and 'largest underestimate 0.30' in alone
    assert 'largest underestimate 0.10' in both


def test_refuses_runs_without_a_split() -> None:
    with pytest.raises(UsageError, match='--meter needs a run with poisons'):
        leak_against_estimate([Result('clip', 1, 9, {'zero_shot/a': [(9, 0.5)]}, 0.0)])
