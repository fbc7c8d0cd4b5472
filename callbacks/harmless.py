"""Lets a run go on where something fails that only informs: a figure, a piece of advice, a log kept elsewhere."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from types import TracebackType

log = logging.getLogger(__name__)


class Harmless(AbstractContextManager[None]):
    """Logs an error in its block, once for each kind of error, and lets the run go on.

    Interrupting or terminating the run passes. No block may hold a collective call, in which other ranks would wait.

        with self.harmless:
            self._draw(...)

    Args:
        what: What the block does, for the log.
        consequence: What the run goes on without, or with instead.
    """

    def __init__(self, what: str, consequence: str = 'the run goes on without') -> None:
        self.what, self.consequence = what, consequence
        self._logged: set[str] = set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        name = type(error).__name__
        if name not in self._logged:
            self._logged.add(name)
            log.warning('%s failed (%s: %s): %s', self.what, name, _first_line(error), self.consequence)
        return True


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), '')
