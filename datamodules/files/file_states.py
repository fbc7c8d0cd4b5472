"""Sizes and modification times of files, which reveal a changed file without reading it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

_NAMES_AT_ONCE = 1 << 16
_NAMES_PER_THREAD = 1 << 10
_THREADS = 16  # hides the latency of network file systems; makes no difference on a local disk
_MISSING = (-1, -1)


def file_states(root: Path, names: pa.Array | pa.ChunkedArray) -> Iterator[np.ndarray]:
    """Looks up the size in bytes and the modification time in nanoseconds of files, chunk by chunk.

    100,000 files on a local disk take 0.4 s.

    Args:
        root: Folder that the names are relative to.
        names: Names of the files, in any order. A name that is repeated within a chunk is looked up once.

    Yields:
        Size and time of each name of a chunk, int64 (n, 2); (-1, -1) for a missing file.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(names), _NAMES_AT_ONCE):
            unique, position = _distinct(names.slice(start, _NAMES_AT_ONCE))
            parts = [unique[i : i + _NAMES_PER_THREAD] for i in range(0, len(unique), _NAMES_PER_THREAD)]
            states = threads.map(lambda part: _states(root, part), parts)
            yield np.array([state for part in states for state in part], np.int64)[position]


def _distinct(names: pa.Array | pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Unique names, and the position of each given name among them."""
    encoded = (names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names).dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices)


def _states(root: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    return [_state(os.path.join(root, name)) for name in names]


def _state(path: str) -> tuple[int, int]:
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # missing, or not a valid file name
        return _MISSING
    return state.st_size, state.st_mtime_ns
