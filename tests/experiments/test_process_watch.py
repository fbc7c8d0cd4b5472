from __future__ import annotations

import queue
import signal
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import process_watch
from experiments.errors import LOST
from experiments.process_watch import KEEPALIVE, NEWS_SECONDS, UNWINDING_SECONDS, ProcessWatch

HOSTS = ['node-a', 'node-a', 'node-b']
SECONDS = 20  # for threads on a busy machine
Ends = queue.Queue[int]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Statuses with which a process would have ended."""
    ended: Ends = queue.Queue()
    monkeypatch.setattr(process_watch, 'UNWINDING_SECONDS', 0)
    monkeypatch.setattr(process_watch, 'NEWS_SECONDS', 0.01)
    monkeypatch.setattr(process_watch, 'gather', lambda _: HOSTS)
    monkeypatch.setattr('os._exit', ended.put)
    return ended


@pytest.fixture
def watches(ends: Ends) -> Iterator[list[ProcessWatch]]:
    """Those of three processes, all connected."""
    told: list[Any] = []
    watched = [ProcessWatch() for _ in HOSTS]
    for rank, watch in enumerate(watched):
        watch.setup(fake_trainer(rank, told), Any, 'fit')  # type: ignore[arg-type]
    for _ in range(1000):
        if len(watched[0]._links) == 2:
            break
        threading.Event().wait(SECONDS / 1000)
    yield watched
    for watch in watched:
        leave(watch)


def fake_trainer(rank: int, told: list[Any]) -> Any:
    def broadcast(value: Any) -> Any:
        if rank == 0:
            told.append(value)
        return told[0]

    environment = SimpleNamespace(main_address='127.0.0.1')
    strategy = SimpleNamespace(broadcast=broadcast, cluster_environment=environment)
    return SimpleNamespace(world_size=len(HOSTS), global_rank=rank, is_global_zero=rank == 0, strategy=strategy)


def leave(watch: ProcessWatch) -> None:
    watch.teardown(None, None, 'fit')  # type: ignore[arg-type]


def die(watch: ProcessWatch) -> None:
    """Closes the connections of a process, as the system does when it ends."""
    watch._is_over = True
    for link in watch._links.values():
        link.shutdown(socket.SHUT_RDWR)


class TestEnd:
    @pytest.mark.parametrize('rank', range(len(HOSTS)))
    def test_of_a_process_ends_all_others_with_a_sentence_that_names_it(
        self, watches: list[ProcessWatch], ends: Ends, rank: int, capfd: Any
    ) -> None:
        die(watches[rank])
        assert [ends.get(timeout=SECONDS) for _ in range(2)] == [LOST, LOST]
        said = capfd.readouterr().err.splitlines()
        sentence = f'error: process {rank} of 3, on {HOSTS[rank]}, has ended, and the run with it: its own output says '
        assert len(said) == 2 and all(line.startswith(sentence) for line in said)
        for other, watch in enumerate(watches):
            assert (f'process {rank} of 3' in watch.why(RuntimeError())) == (other != rank)

    def test_that_was_announced_ends_nobody(self, watches: list[ProcessWatch], ends: Ends) -> None:
        leave(watches[1])
        die(watches[2])
        assert ends.get(timeout=SECONDS) == LOST  # of the first process
        with pytest.raises(queue.Empty):
            ends.get(timeout=0.2)
        assert watches[1].why(RuntimeError()) == ''

    def test_of_a_machine_is_noticed_within_a_minute(self, watches: list[ProcessWatch]) -> None:
        (link,) = watches[2]._links.values()
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, value in KEEPALIVE.items():
            assert link.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
        idle, interval, packets = KEEPALIVE.values()
        assert idle + interval * packets + UNWINDING_SECONDS + NEWS_SECONDS < 60


def test_a_stranger_is_not_taken_for_a_process(ends: Ends) -> None:
    told: list[Any] = []
    first, second = ProcessWatch(), ProcessWatch()
    first.setup(fake_trainer(0, told), Any, 'fit')  # type: ignore[arg-type]
    for greeting in (b'', b'\xff \xe9', b'GET / HTTP/1.1\r\n\r\n', f'{"0" * 16} 00000001'.encode()):
        with socket.create_connection(('127.0.0.1', told[0][0])) as stranger:
            stranger.sendall(greeting)
    second.setup(fake_trainer(2, told), Any, 'fit')  # type: ignore[arg-type]
    die(second)
    assert ends.get(timeout=SECONDS) == LOST
    assert [*first._links] == [2]
    leave(first)


def test_one_process_has_nobody_to_watch(ends: Ends) -> None:
    watch = ProcessWatch()
    watch.setup(SimpleNamespace(world_size=1), Any, 'fit')  # type: ignore[arg-type]
    assert not watch._links and watch.why(RuntimeError()) == ''


def test_a_termination_is_not_left_to_lightning(watches: list[ProcessWatch]) -> None:
    ours = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, lambda *_: None)  # Lightning's
        watches[0].on_train_start(None, None)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, ours)
