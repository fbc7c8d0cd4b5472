"""Parameters of tests, of which the fast suite runs a few."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_fast(cases: Iterable[Any], fast: int = 1) -> list[Any]:
    """Marks all cases but the first ones as slow, where each takes as long as the first and a few show the property.

    Args:
        cases: Values of the parameter, or tuples of several.
        fast: Number of cases that stay in the fast suite.
    """
    listed = list(cases)
    slow = (case if isinstance(case, tuple) else (case,) for case in listed[fast:])
    return [*listed[:fast], *(pytest.param(*case, marks=pytest.mark.slow) for case in slow)]
