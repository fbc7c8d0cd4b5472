"""Atomic writing: a file or folder appears under its name complete, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from datamodules.files.byte_counts import format_bytes
from datamodules.usage_error import UsageError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit of file sizes, such as ulimit -f
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # some network file systems


_TEMPORARY = re.compile(r'\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.tmp$')
_ABANDONED_SECONDS = 24 * 3600  # without a change, after which nobody writes to a temporary file any more
_ZEROS = bytes(1 << 24)
REMEDY = 'write to another folder'


@contextmanager
def write_atomically(path: str | Path, remedy: str = REMEDY) -> Iterator[Path]:
    """Yields the path of a temporary file beside ``path``, and renames the file to ``path`` when the block ends.

    The content is flushed to disk before the rename. If the block fails, the temporary file is removed and ``path``
    stays as it was. What killed processes have left behind in the folder is removed first.

        with write_atomically(folder / 'ledger.parquet') as temporary:
            pq.write_table(lines, temporary)

    Args:
        path: The file to write or replace. Missing parent folders are created.
        remedy: What the user can do if the folder cannot be written, for the message.

    Raises:
        UsageError: If the disk is full, or its folder cannot be written.
    """
    with _temporary_path(Path(path), remedy) as temporary:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(Path(path).parent)


@contextmanager
def continue_atomically(path: str | Path, remedy: str = REMEDY) -> Iterator[Path]:
    """Works like :func:`write_atomically`, but a block that fails or is killed can go on where it ended.

    The temporary file is ``<path>.part``: what earlier blocks wrote is still in it. Only one process may do this at a
    time.

    Args:
        path: The file to write or replace. Missing parent folders are created.
        remedy: What the user can do if the folder cannot be written, for the message.

    Raises:
        UsageError: If the disk is full, or its folder cannot be written.
    """
    path = Path(path)
    make_folder(path.parent, remedy)
    temporary = path.with_name(f'{path.name}.part')
    with _explain_failures(path, temporary, remedy):
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)


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
    with _temporary_path(Path(folder), REMEDY) as temporary:
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


def reserve_space(temporary: Path, size: int, path: Path, remedy: str = REMEDY) -> None:
    """Creates a file of a given size whose space on disk is reserved: writing to it through a memory map cannot fail.

    Args:
        temporary: The file to create.
        size: Its size in bytes.
        path: Final name of the file, for the message.
        remedy: What the user can do if the disk has too little space, for the message.

    Raises:
        UsageError: If the disk has too little space.
    """
    check_space(temporary.parent, size, path, remedy)
    try:
        with temporary.open('xb') as file:
            _allocate(file, size)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise _lack_of_space(temporary.parent, size, path, remedy) from error


def check_space(folder: Path, size: int, path: Path, remedy: str = REMEDY) -> None:
    """Refuses to write what the disk has no room for.

    Args:
        folder: A folder on that disk.
        size: Size of what is to be written, in bytes.
        path: Its name, for the message.
        remedy: What the user can do, for the message.

    Raises:
        UsageError: If the disk has too little space.
    """
    if size > shutil.disk_usage(folder).free:
        raise _lack_of_space(folder, size, path, remedy)


def _lack_of_space(folder: Path, size: int, path: Path, remedy: str) -> UsageError:
    free = shutil.disk_usage(folder).free
    return UsageError(
        f'{path} needs {format_bytes(size)}, and its disk has {format_bytes(free)} free or sets a limit: '
        f'free some space, or {remedy}.'
    )


def _allocate(file: BinaryIO, size: int) -> None:
    if hasattr(os, 'posix_fallocate') and size:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
    for start in range(0, size, len(_ZEROS)):  # a sparse file would end the process with SIGBUS once the disk is full
        file.write(_ZEROS[: size - start])


def make_folder(folder: Path, remedy: str = REMEDY) -> None:
    """Creates a folder and those above it, as far as they are missing.

    Raises:
        UsageError: If it cannot be created, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f'{folder} cannot be created as a folder ({error.strerror}): {remedy}.') from error


@contextmanager
def _temporary_path(path: Path, remedy: str) -> Iterator[Path]:
    """Yields an unused path beside ``path``, and removes what is there when the block ends."""
    make_folder(path.parent, remedy)
    remove_leftovers_in(path.parent)
    temporary = path.with_name(f'{path.name}.{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp')
    try:
        with _explain_failures(path, temporary, remedy):
            yield temporary
    finally:
        _remove(temporary)


@contextmanager
def _explain_failures(path: Path, temporary: Path, remedy: str) -> Iterator[None]:
    """Turns what the system raises while a file is written into a sentence for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise UsageError(
                f'no space is left on the disk of {path}, or a limit is reached: free some, or {remedy}.'
            ) from error
        if error.filename == str(temporary) and error.errno != errno.ENOENT:  # a block that writes nothing is a bug
            raise UsageError(f'{path} cannot be written ({error.strerror}): {remedy}.') from error
        raise


def remove_leftovers_in(folder: Path) -> None:
    """Removes what dead processes were writing in a folder, also under names that are never written again.

    A process of this host is dead if it does not run; a file of another host is given up after a day without a change.
    """
    for leftover in folder.glob('*.tmp'):
        if (match := _TEMPORARY.search(leftover.name)) and _is_abandoned(
            leftover, match['host'], int(match['process'])
        ):
            _remove(leftover)


def _is_abandoned(leftover: Path, host: str, process: int) -> bool:
    if host == _host():
        return not _is_alive(process)
    try:
        return leftover.is_file() and time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS
    except OSError:  # removed meanwhile
        return False


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
