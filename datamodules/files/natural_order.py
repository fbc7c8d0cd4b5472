"""The order in which people count: ``9.tar`` before ``10.tar``."""

from __future__ import annotations

import re

_NUMBER = re.compile('[0-9]+')
_DIGITS = 20  # longer numbers, which are hashes, are compared as text


def natural_order(name: str) -> tuple[str, str]:
    """Returns what to sort a name by: its text, with numbers by their value; then the name itself.

    Example:
        >>> sorted(['a10', 'a9', 'a09', 'b1'], key=natural_order)
        ['a09', 'a9', 'a10', 'b1']
    """
    return _NUMBER.sub(lambda number: number[0].zfill(_DIGITS), name), name
