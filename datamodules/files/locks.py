"""Locks on folders that processes share; a process that dies, however it dies, gives its lock back."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.usage_error import UsageError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = '.lock'
_CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # some network file systems


class FolderInUseError(UsageError):
    """Another process holds the lock of a folder.

    Attributes:
        holder: The process that took the lock. It may have ended, and what it started still holds the lock.
    """

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f'{folder} is in use by {holder} or what it started: wait until it ends, or stop it.')
        self.holder = holder


@contextmanager
def lock(folder: str | Path) -> Iterator[int]:
    """Holds the lock of a folder, which no two holders have at a time, be they processes or threads.

    The lock belongs to the open file ``.lock`` in the folder, so the system releases it when its last holder ends. The
    file is removed with it; one that a killed process left behind is not locked.

        with lock(folder) as file:
            subprocess.run(command, pass_fds=[file])

    Args:
        folder: The folder; created if it is missing.

    Yields:
        Descriptor of the open file. A child process that inherits it holds the lock too, even after this process died.

    Raises:
        FolderInUseError: If another process or thread holds the lock.
        UsageError: If the folder cannot be written.
    """
    path = Path(folder, LOCK_FILE)
    file = _acquire(path)
    try:
        yield file
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _acquire(path: Path) -> int:
    while True:
        file = _open(path)
        try:
            _try_lock(file, path)
            if _is_still_at(path, file):  # else its holder removed the file after it was opened here
                os.truncate(file, 0)
                os.write(file, f'process {os.getpid()} on {socket.gethostname()}'.encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UsageError(f'{path.parent} cannot be written ({error.strerror}): choose another folder.') from error


def _try_lock(file: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(file, 200).decode(errors='replace') or 'another process'
        raise FolderInUseError(path.parent, holder) from None
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        logging.getLogger(__name__).warning(
            'The file system of %s has no locks: start nothing else in this folder.', path.parent
        )


def _is_still_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
