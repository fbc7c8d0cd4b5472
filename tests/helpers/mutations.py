"""Damage a file in many ways, the same at every call, to try a reader of strangers' files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from datamodules.usage_error import UsageError

_SNIPPETS = (  # what readers stumble over
    b'"', b'""', b"'", b',', b'\t', b';', b'|', b'\n', b'\r', b'\r\n', b'\0', b'\xff', b'\xc3', b'\xed\xa0\x80',
    b'\xef\xbb\xbf', b'\xff\xfe', b'\xe2\x80\xa8', b'\\', b'{', b'}', b'[', b']', b':', b'null', b'NaN', b'-1',
    b'9' * 30, b'1e999', b'../', b'/', b'#', b' ', b'a' * 300,
)  # fmt: skip
_MAX_CHANGES = 4


def mutations(data: bytes, count: int) -> Iterator[bytes]:
    """Yields copies of a file, in each of which one to four places are changed: overwritten, inserted, cut or moved."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        changed = data
        for _ in range(draw.integers(1, _MAX_CHANGES, endpoint=True)):
            changed = _change(changed, draw)
        yield changed


def _change(data: bytes, draw: np.random.Generator) -> bytes:
    start, end = sorted(draw.integers(0, len(data) + 1, 2).tolist())
    snippet = _SNIPPETS[draw.integers(len(_SNIPPETS))]
    kinds = (
        lambda: data[:start] + snippet + data[start:],
        lambda: data[:start] + snippet + data[start + len(snippet) :],
        lambda: data[:start] + draw.bytes(1) + data[start + 1 :],
        lambda: data[:start] + data[start + int(draw.integers(1, 9)) :],
        lambda: data[:end],
        lambda: data[:start] + data[end:] + data[start:end],
    )
    return kinds[draw.integers(len(kinds))]()


@contextmanager
def assert_one_sentence() -> Iterator[None]:
    """Lets a reader refuse what it gets, in one line; any other error fails the test."""
    try:
        yield
    except UsageError as error:
        assert str(error) and '\n' not in str(error)
