"""A web server of a few files in a thread, which can be told to misbehave."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves files from memory, with ranges and ETags.

    Attributes:
        files: Content by path without the first slash.
        ranges: Whether parts of a file can be asked for.
        status: Status that answers every request, instead of a file.
        queries: What must follow the question mark; ``None`` for anything.
        headers: Further headers of every answer.
        is_silent: Whether no request for a length is answered either.
        stalls: How many of the next requests for content get no answer, until the server is closed.
        breaks: How many of them are broken off after half of the bytes.
        pause: Seconds between the halves of each answer to a request for content.
        shortened: Bytes that are missing at the end of every answer, whose length says so.
        requests: Counts of ``HEAD``, ``GET`` and ``whole``, a GET of all of a file.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files, self.ranges, self.status = dict(files), True, 200
        self.queries: str | None = None
        self.headers: dict[str, str] = {}
        self.is_silent, self.stalls, self.breaks, self.shortened, self.pause = False, 0, 0, 0, 0.0
        self.requests: Counter[str] = Counter()
        self.is_closed = threading.Event()
        self.counting = threading.Lock()

    @property
    def address(self) -> str:
        """Its address, without a slash at the end."""
        return f'http://127.0.0.1:{self.server_port}'

    def takes(self, name: str) -> bool:
        """Whether a misbehavior is left; takes it."""
        with self.counting:
            left = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return bool(left)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of :class:`FileServer`."""

    server: FileServer
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True  # else every answer takes 40 ms

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.server.requests['HEAD'] += 1
        if self.server.is_silent:
            self.server.is_closed.wait(60)
        elif (content := self.find()) is not None:
            self.start(200, len(content))

    def do_GET(self) -> None:
        self.server.requests['GET'] += 1
        if self.server.takes('stalls'):
            self.server.is_closed.wait(60)
            self.close_connection = True
            return
        content = self.find()
        if content is None:
            return
        part = re.fullmatch(r'bytes=(\d+)-(\d+)', self.headers.get('Range', '')) if self.server.ranges else None
        self.server.requests['whole'] += part is None
        answer = content if part is None else content[int(part[1]) : int(part[2]) + 1]
        answer = answer[: len(answer) - self.server.shortened]
        self.start(200 if part is None else 206, len(answer))
        with suppress(ConnectionError):
            if self.server.takes('breaks'):
                self.wfile.write(answer[: len(answer) // 2])
                self.close_connection = True
            else:
                self.wfile.write(answer[: len(answer) // 2])
                self.server.is_closed.wait(self.server.pause)
                self.wfile.write(answer[len(answer) // 2 :])

    def find(self) -> bytes | None:
        """The file that is asked for; answers with an error if there is none."""
        path, _, query = self.path.lstrip('/').partition('?')
        allowed = self.server.queries in (None, query)
        status = self.server.status if allowed else 403
        if status == 200 and path in self.server.files:
            return self.server.files[path]
        self.send_error(404 if status == 200 else status)
        return None

    def start(self, status: int, length: int) -> None:
        content = self.server.files[self.path.lstrip('/').partition('?')[0]]
        self.send_response(status)
        self.send_header('Content-Length', str(length))
        self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        for header in self.server.headers.items():
            self.send_header(*header)
        self.end_headers()


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[FileServer]:
    """Runs a server while the block does."""
    server = FileServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.is_closed.set()
        server.shutdown()
        server.server_close()
