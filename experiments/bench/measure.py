"""Times and memory of calls, and how a result compares with its target."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from datamodules.usage_error import UsageError

Name = TypeVar('Name', bound=str)
Answer = TypeVar('Answer')

MALLOC_OPTION = 'MALLOC_MMAP_THRESHOLD_'


class Result(NamedTuple):
    """One line of the table.

    Attributes:
        what: Description of the measured quantity.
        value: The measured value.
        unit: Unit of the value, ``x`` for a ratio.
        target: Value to reach; ``None`` for a result that is only shown for comparison.
        higher_is_better: Whether the target is a lower bound; otherwise it is an upper bound.
    """

    what: str
    value: float
    unit: str = 'x'
    target: float | None = None
    higher_is_better: bool = False

    @property
    def verdict(self) -> str:
        """``pass`` or ``short``; empty without a target."""
        if self.target is None:
            return ''
        return (
            'pass' if (self.value >= self.target if self.higher_is_better else self.value <= self.target) else 'short'
        )

    def cells(self) -> tuple[str, str, str, str]:
        """Description, measured value, target and verdict, as a table shows them."""
        bound = (
            ''
            if self.target is None
            else f'{"at least" if self.higher_is_better else "at most"} {_format_number(self.target)}'
        )
        return self.what, f'{_format_number(self.value)} {self.unit}'.strip(), bound, self.verdict


def _format_number(value: float) -> str:
    return f'{value:.0f}' if abs(value) >= 100 else f'{value:.3g}'


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of a call, summed over its threads. CPU time varies less than elapsed time on a busy machine."""
    start = time.process_time()
    call()
    return time.process_time() - start


def best_of(calls: Mapping[Name, Callable[[], object]], repeats: int) -> dict[Name, float]:
    """Shortest CPU seconds of each call. The calls take turns, so that a slow minute affects all of them."""
    for call in calls.values():  # warm up, because some work is done only once
        call()
    times = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    return {name: min(time[name] for time in times) for name in calls}


class Memory:
    """Watches the memory of this process inside a ``with`` block.

    Args:
        before: Baseline in bytes; the memory on creation if ``None``.
        read: What is watched; by default, pages mapped from a file are not counted, because the system reclaims them
            when it needs memory.

    Attributes:
        peak: Largest memory above the baseline, in bytes.
        kept: Memory above the baseline at the end, in bytes.
    """

    def __init__(self, before: int | None = None, read: Callable[[], int] | None = None) -> None:
        self.read = read or anonymous_memory
        self.before = self.read() if before is None else before
        self.peak = self.kept = 0

    def __enter__(self) -> Memory:
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self.kept = self.read() - self.before

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, self.read() - self.before)


def anonymous_memory() -> int:
    """Resident memory of this process that is not mapped from a file, in bytes; Linux only."""
    return _read_status('RssAnon')


def resident_memory() -> int:
    """Resident memory of this process, mapped files included, in bytes; Linux only."""
    return _read_status('VmRSS')


def _read_status(name: str) -> int:
    """A number of bytes that the system keeps about this process.

    Raises:
        UsageError: On systems other than Linux.
    """
    status = Path('/proc/self/status')
    if not status.exists():
        raise UsageError('memory is measured on Linux only: choose a measurement without it by --only.')
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f'{name}:'))
    return int(line.split()[1]) * 1024


def in_new_process(call: Callable[..., Answer], *arguments: Any) -> Answer:
    """What a function at the top level of a module returns in a process of its own, which gives back memory at once."""
    with gives_memory_back(), ProcessPoolExecutor(1, get_context('spawn')) as pool:
        return pool.submit(call, *arguments).result()


@contextmanager
def gives_memory_back() -> Iterator[None]:
    """Lets processes that start meanwhile return all but small blocks as they free them; glibc would keep more."""
    before = os.environ.get(MALLOC_OPTION)
    os.environ[MALLOC_OPTION] = '262144'
    try:
        yield
    finally:
        del os.environ[MALLOC_OPTION]
        os.environ |= {} if before is None else {MALLOC_OPTION: before}
