"""Times of things that take turns, and what they come to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from datamodules.usage_error import UsageError

Name = TypeVar('Name', bound=str)


class Result(NamedTuple):
    """One line of the table.

    Attributes:
        what: What was measured.
        value: The number.
        unit: What it counts, ``x`` for a ratio.
        target: What it should come to; ``None`` where it only stands beside another one.
        more: Whether more than the target is good, not less.
    """

    what: str
    value: float
    unit: str = 'x'
    target: float | None = None
    more: bool = False

    @property
    def verdict(self) -> str:
        """``pass`` or ``short``; nothing without a target."""
        if self.target is None:
            return ''
        return 'pass' if (self.value >= self.target if self.more else self.value <= self.target) else 'short'

    def cells(self) -> tuple[str, str, str, str]:
        """Description, measured value, target and verdict, as a table shows them."""
        bound = '' if self.target is None else f'{"at least" if self.more else "at most"} {_number(self.target)}'
        return self.what, f'{_number(self.value)} {self.unit}'.strip(), bound, self.verdict


def _number(value: float) -> str:
    return f'{value:.0f}' if abs(value) >= 100 else f'{value:.3g}'


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call in seconds, that of all its threads: what a busy machine disturbs least."""
    start = time.process_time()
    call()
    return time.process_time() - start


def best_of(sides: Mapping[Name, Callable[[], object]], repeats: int) -> dict[Name, float]:
    """The shortest time of each side, in seconds; they take turns, so that a slow minute is slow for all."""
    for call in sides.values():  # whatever happens only the first time
        call()
    times = [{name: seconds(call) for name, call in sides.items()} for _ in range(repeats)]
    return {name: min(time[name] for time in times) for name in sides}


class Memory:
    """Memory of this process that belongs to no file, watched while something happens.

    Pages that are mapped from a file are left out: the system takes them back when it needs room.

    Args:
        before: What it is compared with, in bytes; that at the beginning if ``None``.

    Attributes:
        most: The most there was, over ``before``, in bytes.
        kept: What is left at the end, over ``before``, in bytes.
    """

    def __init__(self, before: int | None = None) -> None:
        self.before = anonymous_memory() if before is None else before
        self.most = self.kept = 0

    def __enter__(self) -> Memory:
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self.kept = anonymous_memory() - self.before

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, anonymous_memory() - self.before)


def anonymous_memory() -> int:
    """Resident memory of this process that is not mapped from a file, in bytes.

    Raises:
        UsageError: If the system does not tell, as only Linux does.
    """
    status = Path('/proc/self/status')
    if not status.exists():
        raise UsageError('the memory of bookkeeping is measured on Linux only: leave it out with --only.')
    (line,) = (line for line in status.read_text().splitlines() if line.startswith('RssAnon:'))
    return int(line.split()[1]) * 1024
