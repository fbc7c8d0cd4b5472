"""Ends the command with one line, and the status that shells expect, when it is interrupted or terminated.

Imports nothing that takes time: it must be there before anything that does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

UNTIL_AGAIN = 2.0  # seconds; what is raised is handled in a fraction of that
WORDS = {signal.SIGINT: 'interrupted', signal.SIGTERM: 'terminated'}


def leave_at_once() -> None:
    """From now on Ctrl-C or a termination ends the process on the spot: there is nothing to lose but imports."""
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # which a shell sets for what it runs in the background
            signal.signal(number, _leave)


def end_with_reader() -> None:
    """From now on the process ends when what reads its output does, as in ``clipward fit --help | head``."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@contextmanager
def quiet_signals(terminates: type[BaseException]) -> Iterator[None]:
    """Turns whatever Ctrl-C or a termination leads to in the body into one line and an exit status.

    Much can be raised then: Lightning lets a training step finish after a termination, while workers, which get the
    signal too, are found dead before; after Ctrl-C it exits with status 1.

    Args:
        terminates: What Lightning raises after a termination, of this process or of another that trains with it.

    Raises:
        SystemExit: With status 130 after Ctrl-C, and 143 after a termination.
    """
    with _Noted() as noted:
        try:
            yield
        except BaseException as error:
            number = signal.SIGTERM if isinstance(error, terminates) else noted.received
            if number is None:
                raise
            sys.stderr.write(f'{WORDS[number]}\n')
            raise SystemExit(128 + number) from None


class _Noted:
    """Notes the first signal that arrives, and raises unless Lightning, which handles terminations, will do so.

    What a signal raises can get lost, as in a destructor, so it is raised again until somebody handles it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.is_over = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Noted:
        for number in (*WORDS, signal.SIGALRM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self)
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.received else handler)  # what is left takes a moment

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_over:  # and the handlers are about to be restored
            return
        self.received = self.received or signal.Signals(number)
        sys.unraisablehook = _say_nothing  # workers that the signal ended are found dead at any moment
        handler: Any = signal.getsignal(self.received)
        if handler is not self:  # Lightning has noted it, or has begun to shut down
            return
        signal.setitimer(signal.ITIMER_REAL, UNTIL_AGAIN)
        raise KeyboardInterrupt if self.received == signal.SIGINT else SystemExit(128 + self.received)


def _say_nothing(_: object) -> None:
    pass


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.stderr.write(f'{WORDS[signal.Signals(number)]}\n')
    sys.stderr.flush()
    os._exit(128 + number)
