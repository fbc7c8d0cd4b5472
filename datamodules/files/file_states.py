"""What tells changed files: their content where it is read quickly, else their sizes and modification times."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_READ_BYTES = 1 << 30  # two seconds from a local disk, at every start
_OPENING_BYTES = 1 << 14  # opening a file takes as long as reading this much more of it
_SAMPLES = 64  # files that are read if not all of them are
_SAMPLE_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_NAMES_AT_ONCE = 1 << 16
_NAMES_PER_THREAD = 1 << 10
_THREADS = 16  # hides the latency of network file systems; makes no difference on a local disk
_MISSING = (-1, -1)
_Result = TypeVar('_Result')


def identify_files(root: Path, names: pa.Array | pa.ChunkedArray) -> bytes:
    """Identity of files in a folder, which changes when one of them changes, disappears or appears.

    Files of up to 1 GiB together, each counted with 16 KiB for opening it, are identified by their content. Larger sets
    are identified by the size and modification time (in nanoseconds) of each file and the first 64 KiB of 64 of them: a
    file that is replaced by one of the same size and time is then noticed only if it is among the 64.

    Args:
        root: Folder that the names are relative to; not part of the identity, and neither are the names.
        names: Names of the files, which may be repeated.
    """
    unique = pc.unique(names)
    states = file_states(root, unique)
    sizes = states[states != _MISSING[0]].reshape(-1, 2)[:, 0]
    if (sizes + _OPENING_BYTES).sum() <= MAX_READ_BYTES:
        contents = _in_threads(unique, lambda name: _digest_file(os.path.join(root, name)))
        return hashlib.sha256(b''.join(contents)).digest()
    sampled = np.unique(np.linspace(0, len(unique) - 1, _SAMPLES).astype(np.int64))
    samples = (_digest_file(os.path.join(root, unique[int(row)].as_py()), _SAMPLE_BYTES) for row in sampled)
    return hashlib.sha256(states.tobytes() + b''.join(samples)).digest()


def file_states(root: Path, names: pa.Array) -> np.ndarray:
    """Looks up the size in bytes and the modification time in nanoseconds of files.

    100,000 files on a local disk take 0.4 s.

    Args:
        root: Folder that the names are relative to.
        names: Names of the files.

    Returns:
        Size and time of each file, int64 (n, 2); (-1, -1) for one that is missing, may not be read, or is not a regular
        file.
    """
    states = _in_threads(names, lambda name: _state(os.path.join(root, name)))
    return np.fromiter(states, np.dtype((np.int64, 2)), len(names))


def _in_threads(names: pa.Array, look_up: Callable[[str], _Result]) -> Iterator[_Result]:
    """Applies a function to each name, in order."""

    def look_up_all(part: pa.Array) -> list[_Result]:
        return [look_up(name) for name in part.to_pylist()]

    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(names), _NAMES_AT_ONCE):  # so that the results of millions are not kept
            some = names.slice(start, _NAMES_AT_ONCE)
            parts = [some.slice(i, _NAMES_PER_THREAD) for i in range(0, len(some), _NAMES_PER_THREAD)]
            for results in threads.map(look_up_all, parts):
                yield from results


def _state(path: str) -> tuple[int, int]:
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode) or not os.access(path, os.R_OK):
            return _MISSING
    except (OSError, ValueError):  # missing, or not a valid file name
        return _MISSING
    return state.st_size, state.st_mtime_ns


def _digest_file(path: str, max_bytes: int | None = None) -> bytes:
    """Digest of the beginning of a file, or of all of it; of nothing if it cannot be read."""
    digest = hashlib.sha256()
    if _state(path) == _MISSING:  # opening a FIFO would wait for ever
        return bytes(digest.digest_size)
    try:
        with open(path, 'rb') as file:
            if max_bytes is not None:
                return hashlib.sha256(file.read(max_bytes)).digest()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return bytes(digest.digest_size)
    return digest.digest()
