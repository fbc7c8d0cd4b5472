"""What a model was measured to reach, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat


def describe_measurements(metrics: Mapping[str, SupportsFloat]) -> str:
    """One line for each number, by its name."""
    width = max(map(len, metrics), default=0)
    return '\n'.join(f'  {name:<{width}}  {float(metrics[name]):.4g}' for name in sorted(metrics))
