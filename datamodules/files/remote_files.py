"""Copies files from wherever fsspec reads them: in ranges, so that a copy that broke off goes on where it ended."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
import fsspec
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError

from datamodules.files.atomic import NO_SPACE
from datamodules.files.quoting import quote
from datamodules.files.remote_addresses import fill_in, without_secrets

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 22
BLOCKS_AT_ONCE = 8  # so many requests hide the latency of each, and saturate a gigabit
ANSWER_SECONDS = 120.0  # for all of them: below a quarter of a megabyte a second, a server counts as stalled
LOOK_UP_SECONDS = 20.0
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before a request is repeated, anew after each that was answered
_VERSIONS = (  # what file systems of fsspec call that which changes with the content; the first that there is counts
    'ETag', 'etag', 'md5Hash', 'Content-MD5', 'blob_id', 'generation', 'Last-Modified', 'LastModified', 'last_modified',
    'updated', 'mtime', 'created',
)  # fmt: skip
_MD5 = ('md5Hash', 'Content-MD5')  # of Google's storage, and of web servers; an ETag only looks like one

_Result = TypeVar('_Result')


class RemoteFault(Exception):
    """Why a file cannot be copied, to be read after its address; without any secret."""


class FileState(NamedTuple):
    """What tells whether a file on a server has changed.

    Attributes:
        size: Its length in bytes.
        version: An identity of its content, or the time of its last change; empty if the server tells neither.
        md5: MD5 of its content in base64; empty if the server does not tell.
    """

    size: int
    version: str
    md5: str


class _ShortAnswer(OSError):
    """A server has sent another number of bytes than it announced."""


def look_up(address: str, insist: bool = True) -> FileState:
    """Asks a server for the state of a file.

    Args:
        address: The file.
        insist: Whether to ask again if there is no answer.

    Raises:
        RemoteFault: If there is no such file, or the server does not tell.
    """
    system, path = _connect(address)
    info = _insist(lambda: system.info(path, **_patience(system, LOOK_UP_SECONDS)), None if insist else ())
    if info.get('size') is None:
        raise RemoteFault('has no length that its server tells, so no copy of it could be checked')
    version, md5 = (_first(info, keys) for keys in (_VERSIONS, _MD5))
    return FileState(int(info['size']), version, md5)


def copy_file(address: str, state: FileState, temporary: Path, advance: Callable[[int], object]) -> None:
    """Copies a file, or the rest of it, and compares the copy with its length and checksum.

    Args:
        address: The file.
        state: What :func:`look_up` returned for it.
        temporary: The copy; what an earlier call has written to it is kept.
        advance: Called with the number of bytes whenever some are there.

    Raises:
        RemoteFault: If the server sends something else, or nothing.
        OSError: If the copy cannot be written.
    """
    system, path = _connect(address)
    if state.size <= BLOCK_BYTES:
        temporary.unlink(missing_ok=True)  # one request brings all of it, from any server
    if state.size <= BLOCK_BYTES or _sends_ranges(system, path, state.size):
        _copy_ranges(system, path, state.size, temporary, advance)
    else:
        temporary.touch()  # a folder that cannot be written is no fault of the server
        _insist(partial(_copy_whole, system, path, temporary))
        advance(state.size)
    _check_copy(temporary, state)


def _connect(address: str) -> tuple[Any, str]:
    """The file system of an address, and its path there; made anew, because none survives a fork."""
    try:
        return fsspec.core.url_to_fs(fill_in(address))
    except KeyError as error:
        raise RemoteFault(f'names the environment variable {error.args[0]}, which is not set') from None
    except ImportError as error:
        raise RemoteFault(f'needs a package that is not installed: {str(error).rstrip(".")}') from None
    except Exception as error:  # file systems check their settings on creation, each in its own way
        raise RemoteFault(_describe(error)) from None


def _patience(system: Any, seconds: float) -> dict[str, float]:
    """Argument that bounds the time of a call; only asynchronous file systems take it."""
    return {'timeout': seconds} if system.async_impl else {}


def _sends_ranges(system: Any, path: str, size: int) -> bool:
    """Whether a part of a file can be read alone. A web server may send all of it whatever is asked for."""
    if 'http' not in system.protocol:
        return True
    file = system.open(path, size=size)

    def ask() -> bool:
        try:
            sync(system.loop, file.async_fetch_range, size - 1, size, timeout=LOOK_UP_SECONDS)
        except ValueError:  # raised before anything is read
            return False
        return True

    return _insist(ask)


def _copy_ranges(system: Any, path: str, size: int, temporary: Path, advance: Callable[[int], object]) -> None:
    temporary.touch()
    with temporary.open('r+b') as file:
        position = file.seek(min(size, file.seek(0, os.SEEK_END)))
        advance(position)
        while position < size:
            blocks = _insist(partial(_read_blocks, system, path, position, size))
            file.writelines(blocks)
            file.flush()
            advance(file.tell() - position)
            position = file.tell()
        file.truncate()


def _copy_whole(system: Any, path: str, temporary: Path) -> None:
    """Copies a file from a web server in one request, for which aiohttp would allow five minutes in all."""
    patience = aiohttp.ClientTimeout(total=None, sock_read=ANSWER_SECONDS)
    sync(system.loop, partial(system._get_file, timeout=patience), path, str(temporary))


def _read_blocks(system: Any, path: str, start: int, size: int) -> list[bytes]:
    """Reads some blocks at once and returns them up to the first that failed.

    Raises:
        Exception: What the first block raised, if it failed.
    """
    starts = list(range(start, size, BLOCK_BYTES)[:BLOCKS_AT_ONCE])
    ends = [min(each + BLOCK_BYTES, size) for each in starts]
    answers = system.cat_ranges([path] * len(starts), starts, ends, **_patience(system, ANSWER_SECONDS))
    checked = [_check_length(*answer) for answer in zip(answers, starts, ends, strict=True)]
    if isinstance(checked[0], Exception):
        raise checked[0]
    return list(takewhile(lambda block: not isinstance(block, Exception), checked))


def _check_length(answer: Any, start: int, end: int) -> Any:
    if isinstance(answer, Exception) or len(answer) == end - start:
        return answer
    return _ShortAnswer(f'{len(answer):,} instead of {end - start:,} bytes came')


def _check_copy(temporary: Path, state: FileState) -> None:
    size = temporary.stat().st_size
    wrong = None if size == state.size else f'{size:,} instead of {state.size:,} bytes came'
    if wrong is None and state.md5:
        with temporary.open('rb') as file:
            digest = hashlib.md5(usedforsecurity=False)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        wrong = None if base64.b64encode(digest.digest()).decode() == state.md5 else 'its MD5 is another one'
    if wrong is not None:
        temporary.unlink()
        raise RemoteFault(f'did not arrive as its server announced it ({wrong}): start again, or repair the server')


# --- failures ---------------------------------------------------------------------------------------------------------


def _insist(call: Callable[[], _Result], delays: Sequence[float] | None = None) -> _Result:
    """Repeats a call that fails for a reason that may pass, after ``DELAYS`` if no others are given.

    Raises:
        RemoteFault: If it goes on failing, or for a reason that will not pass.
        OSError: If the disk is full.
    """
    for delay in (*(DELAYS if delays is None else delays), None):
        try:
            return call()
        except Exception as error:  # every file system has its own, and some are no OSError
            if isinstance(error, OSError) and error.errno in NO_SPACE:  # on this machine
                raise
            cause = _cause(error)
            if delay is None or _is_missing(cause) or _is_forbidden(cause):
                raise RemoteFault(_describe(cause)) from None
            log.info('a request is repeated in %g s (%s)', delay, _reason(cause))
            time.sleep(delay)
    raise AssertionError


def _cause(error: Exception) -> Exception:
    """What a web server answered, which fsspec calls a missing file whatever it was."""
    cause = error.__cause__
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) else error


def _status(error: Exception) -> object:
    return getattr(error, 'status', None) or getattr(error, 'code', None)


def _is_missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or _status(error) in (404, 410)


def _is_forbidden(error: Exception) -> bool:
    """Whether rights are missing; the libraries of the large stores have errors of their own for it."""
    known = isinstance(error, PermissionError) or _status(error) in (401, 403)
    return known or re.search('Credential|Authenti', type(error).__name__) is not None


def _describe(error: Exception) -> str:
    if _is_missing(error):
        return 'does not exist: check its name, and the numbers of a range in braces'
    if _is_forbidden(error):
        return f'may not be read ({_reason(error)}): give fsspec the rights, see docs/data.md'
    return f'cannot be read ({_reason(error)}): check the address and the network and start again; what came is kept'


def _reason(error: Exception) -> str:
    if isinstance(error, FSTimeoutError):
        return 'no answer in time'
    text = without_secrets(str(error)).rstrip('.')
    return f'{type(error).__name__}: {quote(text)}' if text else type(error).__name__


def _first(info: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((str(info[key]) for key in keys if info.get(key)), '')
