from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from callbacks import nth_largest as nth
from callbacks.nth_largest import nth_largest


@pytest.mark.parametrize('kind', [np.float32, np.float64])
def test_is_that_of_the_sorted_values(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nth, 'BLOCK', 100)  # several blocks
    generator = np.random.default_rng(0)
    values = generator.normal(0, 1, 1000).astype(kind)
    values[generator.integers(1000, size=300)] = 0.25  # ties
    values[:4] = [np.inf, -np.inf, 0.0, -0.0]
    values[generator.integers(4, 1000, 50)] = np.nan
    descending = np.sort(values[~np.isnan(values)])[::-1]
    for n in (1, 2, 10, 400, len(descending) - 1, len(descending)):
        assert nth_largest(values, n) == descending[n - 1]
