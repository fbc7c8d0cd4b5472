"""Opens files that somebody else made: regular files of bounded size, inside the folder that they belong to."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Literal

from datamodules.files.confinement import is_inside, real_path
from datamodules.files.quoting import quote

Fault = Literal['missing', 'no permission', 'not a file', 'too large', 'outside', 'damaged']  # why one is not read

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_FORBIDDEN = (errno.EACCES, errno.EPERM)
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)  # links in a circle, a socket, a device that is not there


class RefusedFile(OSError):
    """A file that is there, but is not opened."""

    def __init__(self, path: str | Path, fault: Fault, reason: str) -> None:
        super().__init__(f'{quote(path)} {reason}')
        self.fault = fault


def open_file(path: str | Path, max_bytes: int, folder: str | None = None) -> BinaryIO:
    """Opens a regular file for reading, without ever waiting for a FIFO or a device.

    Args:
        path: The file.
        max_bytes: Size of the largest file that is opened.
        folder: Real path of the folder that the file must be in after links are followed; ``None`` for any.

    Raises:
        OSError: If the file does not exist, cannot be read, is not a regular file, is too large or is not in the
            folder; :func:`fault_of` tells which.
        ValueError: If the path contains a null character or a lone surrogate.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if folder is not None:
        path, named = real_path(path), path
        if not is_inside(path, folder):
            raise RefusedFile(named, 'outside', f'is outside {quote(folder)}')
        flags |= os.O_NOFOLLOW  # of a link that has appeared since
    descriptor = os.open(path, flags)
    try:
        _check_kind_and_size(os.fstat(descriptor), path, max_bytes)
    except RefusedFile:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, 'rb')


def _check_kind_and_size(state: os.stat_result, path: str | Path, max_bytes: int) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise RefusedFile(path, 'not a file', 'is not a regular file')
    if state.st_size > max_bytes:
        raise RefusedFile(path, 'too large', f'has {state.st_size:,} bytes, over the limit of {max_bytes:,}')


def fault_of(error: Exception) -> Fault:
    """Tells from what :func:`open_file` or a reader raised why a file was not read."""
    if isinstance(error, RefusedFile):
        return error.fault
    number = error.errno if isinstance(error, OSError) else None
    if number in _MISSING:
        return 'missing'
    if number in _FORBIDDEN:
        return 'no permission'
    return 'not a file' if number in _NO_FILE else 'damaged'


def describe_faults(faults: Counter[Fault]) -> str:
    """Counts by reason for a message, the most frequent first.

    Example:
        >>> describe_faults(Counter({'missing': 2, 'damaged': 3}))
        '3 damaged, 2 missing'
    """
    return ', '.join(f'{count} {fault}' for fault, count in faults.most_common())
