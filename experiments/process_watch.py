"""Ends a run on several processes within a minute when one of them has ended, and says which.

Otherwise the rest may wait for half an hour in a collective call: nothing tells them that a machine has gone, and NCCL
does not always notice that a process has.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from experiments.errors import LOST

log = logging.getLogger(__name__)

GOODBYE = b'goodbye'
GREETING_SECONDS = 10.0  # for who connects to say that it belongs to the run
KEEPALIVE = {'TCP_KEEPIDLE': 10, 'TCP_KEEPINTVL': 10, 'TCP_KEEPCNT': 3}  # seconds, seconds, packets: 40 s for a machine
NEWS_SECONDS = 2.0  # for the news of an end to arrive after the error that it caused
UNWINDING_SECONDS = 10.0  # for a process to end by itself before it is ended


class ProcessWatch(Callback):
    """Connects every process of a run to the first one, and ends them all when one ends without a word.

    The system closes the connections of a process that ends in whatever way, and asks a silent machine whether it is
    still there. Neither depends on what a process computes, so a busy one is never taken for a dead one.

    A termination then ends a process at once. Lightning would first send word to the others from within the handler of
    the signal, which gets in the way of the collective call that they are in, and both may wait for ever.
    """

    def __init__(self) -> None:
        self._links: dict[int, socket.socket] = {}
        self._hosts: list[str] = []
        self._heard = threading.Event()
        self._ending = threading.Lock()
        self._lost = ''
        self._is_over = False
        self._handler: Any = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self._hosts:
            return
        self._handler = signal.getsignal(signal.SIGTERM)
        self._hosts = gather(socket.gethostname())
        server = _listen(trainer.world_size) if trainer.is_global_zero else None
        place: Any = trainer.strategy.broadcast(server and (server.getsockname()[1], secrets.token_hex(8)))
        if server is not None:
            self._start(self._admit, server, place[1])
        else:
            self._join(trainer, *place)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._hosts:
            signal.signal(signal.SIGTERM, self._handler)  # in the place of Lightning's

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Takes leave, so that what this process does from now on is its own business."""
        self._is_over = True
        for link in [*self._links.values()]:
            with suppress(OSError):
                link.sendall(GOODBYE)
                link.shutdown(socket.SHUT_RDWR)

    def why(self, error: BaseException) -> str:
        """What explains an error of this process: the end of another one; empty if none has ended."""
        if not self._hosts or self._is_over:
            return ''
        self._heard.wait(NEWS_SECONDS)
        return self._lost

    # --- connections -------------------------------------------------------------------------------------------------

    def _admit(self, server: socket.socket, token: str) -> None:
        """Accepts the connections of all other processes; on the first one."""
        with server:
            while len(self._links) < len(self._hosts) - 1:
                link, _ = server.accept()
                rank = _rank_of(link, token)
                if rank is None:
                    link.close()
                else:
                    self._follow(rank, link)

    def _join(self, trainer: L.Trainer, port: int, token: str) -> None:
        strategy: Any = trainer.strategy
        try:
            link = socket.create_connection((strategy.cluster_environment.main_address, port), GREETING_SECONDS)
            link.sendall(greeting(token, trainer.global_rank))
        except OSError as error:  # such as a firewall
            log.warning('process %d cannot be watched: %s', trainer.global_rank, error)
            return
        self._follow(0, link)

    def _follow(self, rank: int, link: socket.socket) -> None:
        link.settimeout(None)
        keep_alive(link)
        self._links[rank] = link
        self._start(self._listen_until_end, rank, link)

    def _start(self, job: Any, *arguments: Any) -> None:
        threading.Thread(target=job, args=arguments, daemon=True).start()

    # --- ends --------------------------------------------------------------------------------------------------------

    def _listen_until_end(self, rank: int, link: socket.socket) -> None:
        message = b''
        with link, suppress(OSError):
            message = link.recv(1024)
        if self._is_over or message == GOODBYE or not self._ending.acquire(blocking=False):
            return
        passed_on = message.decode(errors='replace')
        self._lost = passed_on or f'process {rank} of {len(self._hosts)}, on {self._hosts[rank]}, has ended'
        self._heard.set()
        if rank:  # then this is the first process, which alone knows the others
            for other in [*self._links.values()]:
                with suppress(OSError):
                    other.sendall(self._lost.encode())
        self._end()

    def _end(self) -> NoReturn:
        time.sleep(UNWINDING_SECONDS)
        sys.stderr.write(f'error: {without_process(self._lost)}\n')
        sys.stderr.flush()
        os._exit(LOST)


def greeting(token: str, rank: int) -> bytes:
    """What a process says first; of one length for all, so that nothing else is read with it."""
    return f'{token} {rank:08}'.encode()


def _rank_of(link: socket.socket, token: str) -> int | None:
    """The process that has connected; ``None`` for a stranger, who looks for open ports."""
    link.settimeout(GREETING_SECONDS)
    try:
        given, rank = link.recv(len(greeting(token, 0))).split()
        return int(rank) if secrets.compare_digest(given, token.encode()) else None
    except (OSError, ValueError):
        return None


def without_process(lost: str) -> str:
    """The sentence in which a process ends because another one has."""
    return f'{lost}, and the run with it: its own output says why. --ckpt_path=auto goes on from the last checkpoint.'


def gather(value: Any) -> list[Any]:
    """What each process of the run gives, in the order of their ranks."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def keep_alive(link: socket.socket) -> None:
    """Lets the system ask a machine that has not been heard of whether it is still there."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not on all systems
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _listen(processes: int) -> socket.socket:
    with suppress(OSError, ValueError):  # where there is no IPv6
        return socket.create_server(('', 0), family=socket.AF_INET6, backlog=processes, dualstack_ipv6=True)
    return socket.create_server(('', 0), backlog=processes)
