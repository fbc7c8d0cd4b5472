"""Atomic writing: a file or folder appears under its name complete, or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.usage_error import UsageError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # some network file systems


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yields the path of a temporary file beside ``path``, and renames the file to ``path`` when the block ends.

    The content is flushed to disk before the rename. If the block fails, the temporary file is removed and ``path``
    stays as it was. Temporary files of ``path`` left behind by killed processes of this host are removed first.

        with write_atomically(folder / 'ledger.parquet') as temporary:
            pq.write_table(lines, temporary)

    Args:
        path: The file to write or replace. Missing parent folders are created.

    Raises:
        UsageError: If the disk is full, or its folder cannot be written.
    """
    with _temporary_path(Path(path)) as temporary:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(Path(path).parent)


@contextmanager
def fill_atomically(folder: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``folder``, and renames it to ``folder`` when the block ends.

    Works like :func:`write_atomically`, except that the files in the folder are not flushed: a power failure soon
    afterwards may still truncate them.

    Args:
        folder: The folder to create; must be missing or empty. Missing parent folders are created.

    Raises:
        UsageError: If the disk is full, or its folder cannot be written.
    """
    with _temporary_path(Path(folder)) as temporary:
        temporary.mkdir()
        yield temporary
        temporary.replace(folder)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file atomically."""
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)


def reserve_space(temporary: Path, size: int, path: Path) -> None:
    """Creates a file of a given size and reserves its space on disk if the file system can.

    Args:
        temporary: The file to create.
        size: Its size in bytes.
        path: Final name of the file, for the message.

    Raises:
        UsageError: If the disk has too little space.
    """
    free = shutil.disk_usage(temporary.parent).free
    try:
        if size > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with temporary.open('xb') as file:
            _allocate(file.fileno(), size)
    except OSError as error:
        if error.errno not in (*_DISK_FULL, errno.EFBIG):
            raise
        raise UsageError(
            f'{path} needs {_readable(size)}, and its disk has {_readable(free)} free or sets a limit: '
            f'free some space, or set data.cache_dir to a folder on another disk.'
        ) from error


def _allocate(file: int, size: int) -> None:
    if hasattr(os, 'posix_fallocate') and size:
        try:
            os.posix_fallocate(file, 0, size)
            return
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
    os.truncate(file, size)


def _readable(size: float) -> str:
    """Formats a number of bytes for people."""
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if size < 1000:
            return f'{size:.3g} {unit}'
        size /= 1000
    return f'{size:,.1f} TB'


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    """Yields an unused path beside ``path``, and removes what is there when the block ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f'{path.parent} cannot be created as a folder ({error.strerror}): write to another one.'
        ) from error
    remove_leftovers(path)
    temporary = path.with_name(f'{path.name}.{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp')
    try:
        yield temporary
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise UsageError(f'no space is left on the disk of {path}: free some, or write to another disk.') from error
        if error.errno in _NOT_ALLOWED and error.filename == str(temporary):
            raise UsageError(f'{path} cannot be written ({error.strerror}): write to another folder.') from error
        raise
    finally:
        _remove(temporary)


def remove_leftovers(path: Path) -> None:
    """Removes temporary files and folders of ``path`` whose process on this host is dead."""
    prefix = f'{path.name}.{_host()}-'
    for leftover in path.parent.glob(f'{glob.escape(prefix)}*.tmp'):
        process = leftover.name[len(prefix) :].partition('-')[0]
        if process.isdecimal() and not _is_alive(int(process)):
            _remove(leftover)


def _host() -> str:
    """Identifies the machine and, in a container, its process namespace, within which process ids are unique."""
    namespace = ''
    with suppress(OSError):  # Linux only
        namespace = os.readlink('/proc/self/ns/pid')
    return hashlib.sha256(f'{socket.gethostname()} {namespace}'.encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    if os.name == 'nt':  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Asks the system to write a file's content, or a folder's names, to disk."""
    if os.name == 'nt':  # Windows can flush neither folders nor files opened for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot flush a folder
            raise
    finally:
        os.close(handle)
