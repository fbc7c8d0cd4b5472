from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import child_processes
from experiments.child_processes import Children, StoppedError, ended_by_signals

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='signals and sessions of Unix')


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals are heeded, also where the tests run in the background of a shell or under nohup."""
    heeded = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heeded.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def is_alive(process: int) -> bool:
    status = Path(f'/proc/{process}/stat')
    return status.exists() and status.read_text().rpartition(')')[2].split()[0] != 'Z'


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + 10
    while not (file.exists() and file.read_text().endswith('\n')):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return file.read_text()


class TestChildren:
    def test_appends_the_output_to_the_log_and_returns_the_status(self, tmp_path: Path) -> None:
        with Children() as children:
            statuses = [children.run(['sh', '-c', f'echo {n}; exit {n}'], tmp_path / 'log.txt') for n in (3, 4)]
        assert statuses == [3, 4] and (tmp_path / 'log.txt').read_text() == '3\n4\n'

    @pytest.mark.parametrize('trap', ['', 'trap "" TERM; '], ids=['obeys', 'ignores the request'])
    def test_ends_its_children_and_what_they_started(
        self, trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(child_processes, 'GRACE_SECONDS', 0.1)
        log, statuses = tmp_path / 'log.txt', list[int]()
        with Children() as children:
            command = ['sh', '-c', f'{trap}sleep 60 & echo $$ $!; wait']
            thread = threading.Thread(target=lambda: statuses.append(children.run(command, log)))
            thread.start()
            processes = [int(word) for word in wait_for(log).split()]
            assert all(map(is_alive, processes))
        thread.join()
        assert statuses == [-signal.SIGKILL if trap else -signal.SIGTERM]
        time.sleep(0.05)
        assert not any(map(is_alive, processes))

    def test_starts_nothing_once_stopped(self, tmp_path: Path) -> None:
        children = Children()
        children.stop()
        with pytest.raises(StoppedError):
            children.run(['false'], tmp_path / 'log.txt')


@pytest.mark.parametrize('request_', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_closes_what_is_open_and_ends_with_its_status(
    request_: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = []
    with pytest.raises(SystemExit) as ended, ended_by_signals('Stopped.'):
        try:
            os.kill(os.getpid(), request_)
            time.sleep(1)
        finally:
            closed.append(request_)
    assert ended.value.code == 128 + request_ and closed and capsys.readouterr().err == 'Stopped.\n'
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals('Stopped.'):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
