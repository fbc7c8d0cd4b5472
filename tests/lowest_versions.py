"""Print pip constraints that hold every dependency at its lower bound, extras included, for `make check-lowest`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import requires

PROJECT = 'clipward'
LOWER_BOUND = re.compile(r'^([\w.-]+).*?>=\s*([\w.]+)')


def lowest_versions(requirements: Iterable[str]) -> list[str]:
    """Returns `name==version` for each requirement, such as `torch==2.11` for `torch>=2.11`.

    Args:
        requirements: As the metadata of an installed project lists them. An extra of the project itself is left out.

    Raises:
        ValueError: If a requirement has no lower bound.
    """
    constraints = []
    for requirement in requirements:
        if requirement.startswith(f'{PROJECT}['):
            continue
        bound = LOWER_BOUND.match(requirement)
        if bound is None:
            raise ValueError(f'{requirement!r} has no lower bound: write name>=version in pyproject.toml.')
        constraints.append('=='.join(bound.groups()))
    return constraints


if __name__ == '__main__':
    sys.stdout.writelines(f'{constraint}\n' for constraint in lowest_versions(requires(PROJECT) or []))
