"""Child processes that end with the command that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

GRACE_SECONDS = 10.0  # a run that is told to end first finishes its batch
STATUS_OF_SIGNALS = 128  # plus the number of the signal: what a shell shows for a command that a signal ended


class StoppedError(RuntimeError):
    """The children were told to end, so no other starts."""


class Children:
    """Runs commands in processes that are all ended when its block ends, however it ends.

        with Children() as children:
            status = children.run(command, Path('log.txt'))

    Each command leads a session of its own, so Ctrl-C in a terminal reaches this process alone, which ends its children
    with all that they started.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
    ) -> int:
        """Runs a command to its end; may be called by several threads.

        Args:
            command: Program and arguments.
            log: File to which its output is appended.
            environment: Its environment variables; this process's if ``None``.
            inherited: Descriptors of open files that it inherits, such as that of a lock.

        Returns:
            Its exit status, negative after a signal.

        Raises:
            StoppedError: If the children have been told to end.
        """
        with open(log, 'ab') as output:
            process = self._start(command, stdout=output, stderr=output, env=environment, pass_fds=inherited)
        try:
            return process.wait()
        finally:
            self._running.discard(process)

    def _start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        with self._starting:
            if self.stopped.is_set():
                raise StoppedError
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
            self._running.add(process)
            return process

    def stop(self) -> None:
        """Asks all children to end, and kills those that have not done so after ``GRACE_SECONDS``."""
        with self._starting:
            self.stopped.set()
        running = [*self._running]
        try:
            for process in running:
                process.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:  # also if a second Ctrl-C ends the wait
            for process in running:
                _kill_session(process)


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kills a child and what it started, such as the workers of its loaders."""
    if hasattr(os, 'killpg'):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:  # Windows
        process.kill()


@contextmanager
def ended_by_signals(message: str) -> Iterator[None]:
    """Lets a scheduler or a closed terminal end the program as Ctrl-C does: what is open is closed on the way.

    Args:
        message: A line to print then.

    Raises:
        SystemExit: If the program is told to end, with the status that a shell gives to the signal.
    """
    requests = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP') if hasattr(signal, name)]
    heeded = [request for request in requests if signal.getsignal(request) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {request: signal.signal(request, _interrupt) for request in heeded}
    try:
        yield
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(f'{message}\n')
        raise SystemExit(STATUS_OF_SIGNALS + (*interrupt.args, signal.SIGINT)[0]) from None
    finally:
        for request, handler in before.items():
            signal.signal(request, handler)


def _interrupt(request: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(request)
