from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from experiments.interrupts import quiet_signals

ROOT = Path(__file__).parents[2]


class Terminated(Exception):
    """What Lightning would raise."""


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr('experiments.interrupts.UNTIL_AGAIN', 0.01)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    hook = sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell ignores it
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_and_exit() -> None:
    try:
        interrupt()
    except KeyboardInterrupt:
        sys.exit(1)


def interrupt_and_lose_a_worker() -> None:
    with suppress(KeyboardInterrupt):
        interrupt()
    raise RuntimeError('DataLoader worker exited unexpectedly')


class Doomed:
    """Has a destructor, in which Python ignores all errors."""

    def __del__(self) -> None:
        interrupt()


def interrupt_where_errors_are_ignored() -> None:
    Doomed()
    time.sleep(10)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def terminate_while_lightning_listens() -> None:
    ours = signal.getsignal(signal.SIGTERM)
    assert callable(ours)
    signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
    terminate()
    raise RuntimeError('DataLoader worker is killed by signal: Terminated.')


def learn_of_a_termination() -> None:
    raise Terminated


class TestQuietSignals:
    @pytest.mark.parametrize(
        ('happens', 'word', 'status'),
        [
            (interrupt, 'interrupted', 130),
            (interrupt_and_exit, 'interrupted', 130),
            (interrupt_and_lose_a_worker, 'interrupted', 130),
            (interrupt_where_errors_are_ignored, 'interrupted', 130),
            (terminate, 'terminated', 143),
            (terminate_while_lightning_listens, 'terminated', 143),
            (learn_of_a_termination, 'terminated', 143),
        ],
    )
    def test_end_in_one_line_and_a_status(
        self, happens: Callable[[], None], word: str, status: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit, quiet_signals(Terminated):
            happens()
        assert exit.value.code == status
        assert capsys.readouterr().err == f'{word}\n'

    def test_leave_other_errors_and_the_handlers_alone(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(RuntimeError), quiet_signals(Terminated):
            raise RuntimeError
        with quiet_signals(Terminated):
            pass
        assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupted_import_ends_in_one_line() -> None:
    program = """
import os, signal, sys
sys.argv = ['clipward']
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, *_):
        if name == 'experiments.class_help':
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
import experiments.cli
"""
    result = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, 'interrupted\n')
