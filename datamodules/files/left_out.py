"""Count what a reader leaves out of a data set."""

from __future__ import annotations

import logging
from collections import Counter

log = logging.getLogger(__name__)


class LeftOut:
    """What a reader leaves out, counted by kind, with the place of the first of each kind.

    Example:
        >>> left_out = LeftOut('rows')
        >>> left_out.add('are not UTF-8', 'line 7')
        >>> left_out.describe(64)
        '1 of 64 rows are not UTF-8; first: line 7'
    """

    def __init__(self, things: str) -> None:
        self.things = things
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, kind: str, place: str) -> None:
        """Counts one thing.

        Args:
            kind: What is wrong with it, as a verb in the plural, such as ``have no caption``.
            place: Where it is, such as ``line 7``.
        """
        self.counts[kind] += 1
        self.first.setdefault(kind, place)

    def describe(self, total: int) -> str:
        """Describes each kind in one line of text; ``total`` counts what was read, whether left out or not."""
        return ', '.join(self._describe(kind, total) for kind in self.counts)

    def log(self, source: str, total: int) -> None:
        """Logs one line for each kind."""
        for kind in self.counts:
            log.warning('%s: %s; left out', source, self._describe(kind, total))

    def _describe(self, kind: str, total: int) -> str:
        return f'{self.counts[kind]} of {total} {self.things} {kind}; first: {self.first[kind]}'
