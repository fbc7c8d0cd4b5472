from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.bench import start


def test_the_shortest_time_of_each_checkout_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = iter([3.0, 1.0, 2.0] * 3), iter([9.0, 4.0, 8.0] * 3)

    def cpu_seconds(arguments: Sequence[str], checkout: Path) -> float:
        return next(here if checkout == start.THIS_CHECKOUT else other)

    monkeypatch.setattr(start, 'cpu_seconds', cpu_seconds)
    monkeypatch.setattr(start, 'THIS_CHECKOUT', Path('here'))
    monkeypatch.setattr(Path, 'is_file', lambda path: True)
    values = [(result.value, result.verdict) for result in start.measure(Path('other'))]
    assert values == [(1.0, ''), (4.0, ''), (0.25, 'pass')] * 3


def test_cpu_time_of_a_command_is_positive() -> None:
    assert start.cpu_seconds(['--help'], start.THIS_CHECKOUT) > 0
