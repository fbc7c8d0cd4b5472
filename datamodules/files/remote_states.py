"""What servers say about shards, kept beside the copies, so that a shard that changes is noticed."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from datamodules.files.atomic import make_folder
from datamodules.files.building import REMEDY
from datamodules.files.remote_addresses import public_address
from datamodules.files.remote_files import FileState, RemoteFault, look_up
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

_LOOK_UPS = 16  # at a time


def look_up_once(copies: Mapping[Path, str], argument: str) -> list[FileState]:
    """The state of each shard: what was kept when it was first looked up on this machine, or what its server says now.

    Args:
        copies: Path of each copy, and the address of the shard.
        argument: Name of the argument that holds the addresses, for messages.

    Raises:
        UsageError: If a shard cannot be looked up, or its state cannot be kept.
    """

    def ask(path: Path) -> FileState:
        try:
            return look_up(copies[path])
        except RemoteFault as fault:
            raise fault_at(copies[path], argument, str(fault)) from None

    states = _read_states(copies)
    unknown = [path for path in copies if path not in states]
    for path, state in zip(unknown, _in_threads(ask, unknown), strict=True):
        _keep(path, state)
        states[path] = state
    return [states[path] for path in copies]


def check_unchanged(copies: Mapping[Path, str], argument: str) -> None:
    """Asks servers whether the shards that were looked up before have changed since; warns if they do not answer.

    Args:
        copies: Path of each copy, and the address of the shard.
        argument: Name of the argument that holds the addresses, for messages.

    Raises:
        UsageError: If a shard has changed.
    """
    states = _read_states(copies)
    try:
        now = _in_threads(partial(look_up, insist=False), [copies[path] for path in states])
    except RemoteFault as fault:
        log.warning('%s: its server cannot be asked whether shards have changed; one %s.', argument, fault)
        return
    for (path, state), found in zip(states.items(), now, strict=True):
        check_state(path, copies[path], argument, state, found)


def check_state(path: Path, address: str, argument: str, known: FileState, now: FileState) -> None:
    """Refuses a shard that has changed.

    Args:
        path: Its copy.
        address: Its address.
        argument: Name of the argument that holds the address, for the message.
        known: Its state when it was first looked up.
        now: Its state now.

    Raises:
        UsageError: If they differ.
    """
    if known != now:
        fault = (
            f'has changed on its server ({known.size:,} bytes then, {now.size:,} now): delete {str(path)!r} and the '
            f'files beside it whose names begin so, to take the new one as other data, or name the copies instead of '
            f'their addresses, to go on with the old ones'
        )
        raise fault_at(address, argument, fault)


def fault_at(address: str, argument: str, fault: str) -> UsageError:
    """The sentence that says what is wrong with a shard."""
    return UsageError(f'{argument}: {public_address(address)!r} {fault}.')


def _read_states(paths: Iterable[Path]) -> dict[Path, FileState]:
    """States that are kept, without those that are missing or damaged."""
    states = {}
    for path in paths:
        try:
            states[path] = FileState(**json.loads(_file_of(path).read_text()))
        except (OSError, ValueError, TypeError):
            continue
    return states


def _keep(path: Path, state: FileState) -> None:
    """Writes a state; without waiting for the disk as there may be thousands, and a damaged one is looked up again."""
    file = _file_of(path)
    make_folder(file.parent, REMEDY)
    temporary = file.with_name(f'{file.name}.{uuid.uuid4().hex[:8]}')
    try:
        temporary.write_text(json.dumps(state._asdict()))
        temporary.replace(file)
    except OSError as error:
        raise UsageError(f'{file} cannot be written ({error.strerror}): {REMEDY}.') from error


def _file_of(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _in_threads(ask: Callable[..., FileState], items: Iterable[object]) -> list[FileState]:
    with ThreadPoolExecutor(_LOOK_UPS) as threads:
        return list(threads.map(ask, items))
