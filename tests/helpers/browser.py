"""Chromium without a window, driven over a pipe in its own protocol, so that no driver has to be installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
SECONDS = 60  # until an answer, on a busy machine


class Browser:
    """One page in a browser.

    Attributes:
        events: What the page did, such as messages to its console, violations of its policy and requests, in order.
    """

    def __init__(self, writing: int, reading: int) -> None:
        self._writing, self._reading, self._buffer, self._calls = writing, reading, b'', 0
        self._session = ''
        self.events: list[dict[str, Any]] = []

    def open(self, page: Path, downloads: Path) -> None:
        """Opens a page, and saves its downloads in a folder."""
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.call('Browser.setDownloadBehavior', behavior='allow', downloadPath=str(downloads))
        self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')
        self.call('Page.navigate', url=page.as_uri())
        self._wait_for('Page.loadEventFired')

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self.call('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the DevTools protocol."""
        self._calls += 1
        session = {'sessionId': self._session} if self._session else {}
        message = {'id': self._calls, 'method': method, 'params': parameters, **session}
        os.write(self._writing, json.dumps(message).encode() + b'\0')
        while (answer := self._receive()).get('id') != self._calls:
            self.events.append(answer)
        assert 'error' not in answer, answer
        result: dict[str, Any] = answer['result']
        return result

    def _wait_for(self, event: str) -> None:
        while not any(each.get('method') == event for each in self.events):
            self.events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        while b'\0' not in self._buffer:
            part = os.read(self._reading, 1 << 16)
            assert part, 'the browser has ended'
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b'\0')
        received: dict[str, Any] = json.loads(message)
        return received


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block; skips the test where none is installed (Debian: ``apt install chromium``)."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        pytest.skip(f'none of {", ".join(NAMES)} is installed')
    (their_reading, writing), (reading, their_writing) = os.pipe(), os.pipe()
    options = ['--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe', f'--user-data-dir={profile}']
    command = f'exec "$0" "$@" 3<&{their_reading} 4>&{their_writing}'  # the numbers that the browser expects
    process = subprocess.Popen(
        ['bash', '-c', command, program, *options],
        pass_fds=(their_reading, their_writing),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (their_reading, their_writing):
        os.close(end)
    try:
        yield Browser(writing, reading)
    finally:
        process.kill()
        process.wait()
        for end in (writing, reading):
            os.close(end)


def wait_for_file(path: Path) -> bytes:
    """Content of a file that a browser is about to download."""
    deadline = time.monotonic() + SECONDS
    while not path.is_file():
        assert time.monotonic() < deadline, f'{path} was not downloaded'
        time.sleep(0.05)
    return path.read_bytes()
