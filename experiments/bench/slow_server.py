"""Program that serves a folder over HTTP as slowly as a distant server: with a latency and a rate for all answers."""

from __future__ import annotations

import re
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK_BYTES = 1 << 17


class Wire:
    """Lets bytes through at a rate, whoever sends them.

    Args:
        rate: Bytes in a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate, self.free_at, self.lock = rate, 0.0, threading.Lock()

    def wait(self, count: int) -> None:
        """Waits until so many bytes are through."""
        with self.lock:
            self.free_at = max(self.free_at, time.monotonic()) + count / self.rate
            until = self.free_at
        time.sleep(max(0.0, until - time.monotonic()))


class Handler(SimpleHTTPRequestHandler):
    """Answers with a file, or with the range of it that was asked for."""

    latency: float
    wire: Wire
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        """Answers with the length of a file."""
        time.sleep(self.latency)
        super().do_HEAD()

    def do_GET(self) -> None:
        """Sends a range of a file."""
        time.sleep(self.latency)
        with open(self.translate_path(self.path), 'rb') as file:
            start, end = map(int, re.findall(r'\d+', self.headers['Range']))
            self.send_response(206)
            self.send_header('Content-Length', str(end + 1 - start))
            self.end_headers()
            for position in range(start, end + 1, CHUNK_BYTES):
                self.wire.wait(count := min(CHUNK_BYTES, end + 1 - position))
                file.seek(position)
                self.wfile.write(file.read(count))


if __name__ == '__main__':
    folder, latency, rate = sys.argv[1:]
    Handler.latency, Handler.wire = float(latency), Wire(float(rate))
    server = ThreadingHTTPServer(('127.0.0.1', 0), lambda *request: Handler(*request, directory=folder))
    print(server.server_port, flush=True)
    server.serve_forever()
