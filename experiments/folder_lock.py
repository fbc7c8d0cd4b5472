"""A lock on a folder, held until its process lets go of it or ends in whatever way."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from datamodules.usage_error import UsageError

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked
    fcntl = None

FILE = '.lock'


class FolderLock:
    """Locks a folder.

    The lock is one of the operating system, on a file in the folder. Unlike a file that names its owner, it cannot
    outlive the process; unlike ``flock``, it does not pass to loader workers that outlive it by seconds.

    Args:
        folder: The folder, which must exist.
        hint: A sentence on what else could be done while it is in use.

    Raises:
        UsageError: If another process holds the lock, naming it, or the folder cannot be written.
    """

    def __init__(self, folder: Path, hint: str = '') -> None:
        try:
            self._file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT)  # stays open: closing it releases the lock
        except OSError as error:
            raise UsageError(f'{folder} cannot be written ({error.strerror}).') from error
        try:
            if fcntl:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            owner = os.read(self._file, 200).decode(errors='replace').strip() or 'another process'
            os.close(self._file)
            raise UsageError(
                f'{folder} is in use by {owner}: wait for its end, or end it.{hint and f" {hint}"}'
            ) from error
        except OSError:  # a network file system without locks
            pass
        os.ftruncate(self._file, 0)
        os.write(self._file, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())

    def release(self) -> None:
        """Lets other processes use the folder."""
        os.close(self._file)
