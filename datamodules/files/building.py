"""Files of a cache: made once, by one of the processes that need them, and checked whenever they are opened."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.files.atomic import make_folder, write_atomically
from datamodules.usage_error import UsageError

try:
    import fcntl
except ImportError:  # Windows, where every process makes its own and the last one stays
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

REMEDY = 'set data.cache_dir to another folder'


def make_once(path: Path, make: Callable[[Path], None]) -> None:
    """Makes a file unless it exists. Other processes that need it wait until it is there.

    Args:
        path: The file.
        make: Writes it under the temporary name that it is given.

    Raises:
        UsageError: If the file cannot be written, or something else has its name.
    """
    if os.path.exists(path):  # unlike Path.exists, also false if the name is not allowed
        return
    make_folder(path.parent, REMEDY)
    with only_process(path.with_name(f'{path.name}.lock')):
        if not path.exists():  # another process may have made it meanwhile
            with write_atomically(path, REMEDY) as temporary:
                make(temporary)


@contextmanager
def only_process(lock: Path, level: int = logging.WARNING) -> Iterator[None]:
    """Waits until no other process or thread holds a lock. The system takes it from a process that dies.

    Args:
        lock: File that stands for the lock; removed with it.
        level: Level at which waiting is logged.

    Raises:
        UsageError: If the file cannot be created.
    """
    file = _acquire(lock, level)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        _flock(file, 'LOCK_UN')  # also for loader workers, which have inherited it
        os.close(file)


def _acquire(lock: Path, level: int) -> int:
    while True:
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UsageError(f'{lock.with_suffix("")} cannot be written ({error.strerror}): {REMEDY}.') from error
        _wait_for(file, lock, level)
        try:
            if os.path.samestat(lock.stat(), os.fstat(file)):
                return file
        except FileNotFoundError:  # the process that was waited for has removed it
            pass
        os.close(file)


def _wait_for(file: int, lock: Path, level: int) -> None:
    try:
        _flock(file, 'LOCK_EX', 'LOCK_NB')
    except BlockingIOError:
        log.log(level, 'waiting for another process that makes %s', lock.with_suffix(''))
        _flock(file, 'LOCK_EX')


def _flock(file: int, *operations: str) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, sum(getattr(fcntl, operation) for operation in operations))
        except BlockingIOError:
            raise
        except OSError as error:  # some network file systems have no locks
            log.debug('the file system has no locks (%s): every process makes its own file', error)
