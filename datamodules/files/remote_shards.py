"""Tar shards on servers: each is copied once into the cache and read as a local file from then on.

Where the disk holds all of them, they are copied before the first is read. Where :class:`CopyRules` limits the copies,
a shard is copied when it is opened, the next one meanwhile, and what was not used for the longest time makes room. That
suits a pass over all shards in order, which is how the index and the cache of pictures are made.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from datamodules.files.atomic import check_space, continue_atomically, make_folder
from datamodules.files.building import REMEDY, only_process
from datamodules.files.byte_counts import format_bytes
from datamodules.files.natural_order import natural_order
from datamodules.files.remote_addresses import check_addresses, is_address, place_of, public_address
from datamodules.files.remote_files import RemoteFault, copy_file, look_up
from datamodules.files.remote_states import check_state, check_unchanged, fault_at, look_up_once
from datamodules.files.shards import ShardFolder, expand_range, find_shards, shards_root
from datamodules.usage_error import UsageError

FOLDER = 'remote'  # of the copies, in the folder of the caches
_FEWEST_COPIES = 3  # of the largest shard: one that slower workers still read, the current one, and the next
_STORES = {'s3', 's3a', 'gs', 'gcs', 'az', 'abfs', 'abfss', 'oss', 'sftp', 'ssh', 'smb', 'hdfs', 'file', 'memory'}
_SHOWN_BYTES = 10**8  # from which a bar shows the progress


class CopyRules(NamedTuple):
    """Where shards are copied to, and how many of them.

    Attributes:
        cache_dir: Folder of the caches.
        limit: Most bytes that all copies may have together; ``None`` for as many as the disk holds.
        at_random: Whether pictures are read from the shards in random order, which needs all of them at once.
    """

    cache_dir: Path
    limit: int | None = None
    at_random: bool = False


def open_shards(patterns: str | Sequence[str], argument: str, rules: CopyRules) -> ShardFolder:
    """Finds local shards, or copies those that addresses name.

    Args:
        patterns: As for :func:`datamodules.files.shards.find_shards`, or addresses of tar files, such as
            ``s3://bucket/cc3m-{00000..00331}.tar``.
        argument: Name of the argument that holds the patterns, for messages.
        rules: Where the copies go.

    Raises:
        UsageError: If there is no shard, or one cannot be read or copied.
    """
    if not _has_address(patterns):
        local = find_shards(patterns, argument)
        return ShardFolder(shards_root(local), local)
    shards = RemoteShards(_find_copies(patterns, argument, rules.cache_dir), argument, rules)
    shards.prepare()
    return shards


def check_copies(patterns: str | Sequence[str] | None, argument: str, cache_dir: Path) -> None:
    """Asks servers whether shards have changed since they were first looked up; to be called once on each node.

    Args:
        patterns: Local files, which pass, and addresses; ``None`` for none.
        argument: Name of the argument that holds the patterns, for messages.
        cache_dir: Folder of the caches.

    Raises:
        UsageError: If a shard has changed.
    """
    if patterns is not None and _has_address(patterns):
        check_unchanged(_find_copies(patterns, argument, cache_dir), argument)


class RemoteShards(ShardFolder):
    """Copies of shards, below the folder ``remote`` of the cache; a copy that is missing is made when it is opened.

    Args:
        copies: Path of each copy, sorted, and the address of the shard.
        argument: Name of the argument that holds the addresses, for messages.
        rules: How many copies there may be.

    Attributes:
        states: Length and version of each shard, as they were when this machine first looked them up.
        is_rolling: Whether the shards exceed the limit, so that some copies make room for others.

    Raises:
        UsageError: If a shard cannot be looked up.
    """

    is_remote = True

    def __init__(self, copies: Mapping[Path, str], argument: str, rules: CopyRules) -> None:
        super().__init__(shards_root([*copies]), [*copies])
        self.argument, self.rules, self.folder = argument, rules, rules.cache_dir / FOLDER
        self.addresses = dict(zip(self.names, copies.values(), strict=True))
        self.states = dict(zip(self.names, look_up_once(copies, argument), strict=True))
        self.is_rolling = rules.limit is not None and self.size > rules.limit
        self.folder_address = self._find_folder()
        self._current: str | None = None  # the shard that was opened last in this process

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(state.size for state in self.states.values())

    def prepare(self) -> None:
        """Copies all shards, unless they exceed the limit.

        Raises:
            UsageError: If the limit is too low or the disk too small, before anything is copied, or a copy fails.
        """
        if self.is_rolling:
            self._check_limit()
            return
        missing = [name for name in self.names if not (self.root / name).exists()]
        size = sum(self.states[name].size for name in missing)
        self._check_disk(size - sum(map(self._size_of_part, missing)))
        hidden = size < _SHOWN_BYTES
        with tqdm(desc='copying', total=size, unit='B', unit_scale=True, leave=False, disable=hidden) as bar:
            for name in missing:
                self._copy_once(name, bar.update)

    def open(self, name: str) -> BinaryIO:
        """Opens the copy of a shard, and makes it first if it is missing.

        Raises:
            UsageError: If it cannot be made.
        """
        while True:
            with suppress(FileNotFoundError):
                file = super().open(name)
                break
            self._copy_once(name)  # another process may remove it again before it is opened
        if name != self._current:
            self._turn_to(name)
        return file

    def identity(self, names: pa.Array | pa.ChunkedArray) -> bytes:
        """What tells whether some shards have changed: what their servers say of them, so that none must be there."""
        states = [tuple(self.states[name]) for name in pc.unique(names).to_pylist()]
        return hashlib.sha256(repr(states).encode()).digest()

    # --- copies ------------------------------------------------------------------------------------------------------

    def _turn_to(self, name: str) -> None:
        """Notes which shard is in use; copies the next one in the background if they are read in order."""
        number, self._current, before = self.names.index(name), name, self._current
        with suppress(OSError):  # it may be gone, or belong to somebody else
            os.utime(self.root / name)
        is_in_order = number == 0 if before is None else self.names[number - 1] == before
        if self.is_rolling and is_in_order and number + 1 < len(self.names):
            threading.Thread(target=self._copy_ahead, args=(self.names[number + 1],), daemon=True).start()

    def _copy_ahead(self, name: str) -> None:
        with suppress(UsageError):  # who opens the shard is told
            self._copy_once(name)

    def _copy_once(self, name: str, advance: Callable[[int], object] = lambda _: None) -> None:
        """Makes a copy unless it exists. Other processes that need it wait until it is there."""
        if (self.root / name).exists():
            return
        make_folder(self.folder, REMEDY)
        with only_process(self.folder / '.lock', logging.DEBUG):
            if (self.root / name).exists():
                advance(self.states[name].size)
            else:
                self._make_room(name)
                self._copy(name, advance)

    def _copy(self, name: str, advance: Callable[[int], object]) -> None:
        try:
            self._check(name)  # what an earlier process has copied of it must be of the same version
            with continue_atomically(self.root / name, REMEDY) as temporary:
                self._fill(name, temporary, advance)
        except RemoteFault as fault:
            raise fault_at(self.addresses[name], self.argument, str(fault)) from None

    def _fill(self, name: str, temporary: Path, advance: Callable[[int], object]) -> None:
        fault = None
        try:
            copy_file(self.addresses[name], self.states[name], temporary, advance)
        except RemoteFault as error:
            fault = error
        try:
            self._check(name)  # a change also explains a fault
        except UsageError:
            temporary.unlink(missing_ok=True)  # may be a part of each version
            raise
        if fault is not None:
            raise fault

    def _check(self, name: str) -> None:
        address = self.addresses[name]
        check_state(self.root / name, address, self.argument, self.states[name], look_up(address))

    def _make_room(self, name: str) -> None:
        """Removes the copies that were not used for the longest time, also those of other data sets."""
        if self.rules.limit is None:
            return
        own = self._part(name)
        files = [path for path in self.folder.rglob('*.tar*') if path.suffix in ('.tar', '.part') and path != own]
        states = sorted((state.st_mtime_ns, state.st_size, path) for path in files if (state := path.stat()))
        excess = sum(size for _, size, _ in states) + self.states[name].size - self.rules.limit
        for _, size, path in states:
            if excess > 0:
                path.unlink(missing_ok=True)
            excess -= size

    def _part(self, name: str) -> Path:
        """What an earlier process has copied of a shard."""
        return Path(f'{self.root / name}.part')

    def _size_of_part(self, name: str) -> int:
        part = self._part(name)
        return part.stat().st_size if part.exists() else 0

    # --- checks ------------------------------------------------------------------------------------------------------

    def _find_folder(self) -> str | None:
        """Address of the folder that holds all shards, if its server is one on which people keep files of their own."""
        name, address = self.names[0], self.addresses[self.names[0]]
        protocols = {each.partition('://')[0].lower() for each in self.addresses.values()}
        is_below_host = len(self.root.relative_to(self.folder).parts) > 1
        return address.removesuffix(name) if is_below_host and protocols <= _STORES and address.endswith(name) else None

    def _check_limit(self) -> None:
        largest, limit = max(state.size for state in self.states.values()), self.rules.limit
        assert limit is not None
        if self.rules.at_random:
            raise UsageError(
                f'{self.argument} names {format_bytes(self.size)} of shards, over data.cache_limit='
                f'{format_bytes(limit)}, and with data.cache=none every epoch reads all of them at random: set '
                f'data.cache=memmap, which reads them once and in order, or raise the limit.'
            )
        if limit < _FEWEST_COPIES * largest:
            raise UsageError(
                f'data.cache_limit={format_bytes(limit)} has no room for {_FEWEST_COPIES} shards, of which the largest '
                f'of {self.argument} has {format_bytes(largest)}: set at least {_FEWEST_COPIES * largest}.'
            )

    def _check_disk(self, size: int) -> None:
        if size and self.rules.limit is None:  # else other copies make room
            make_folder(self.folder, REMEDY)
            check_space(self.folder, size, self.folder, 'set data.cache_limit, or data.cache_dir to another disk')


def _has_address(patterns: str | Sequence[str]) -> bool:
    return is_address(patterns) if isinstance(patterns, str) else any(map(is_address, patterns))


def _find_copies(patterns: str | Sequence[str], argument: str, cache_dir: Path) -> dict[Path, str]:
    """Path of the copy of each shard, in the order of the shards, and its address."""
    listed = [patterns] if isinstance(patterns, str) else patterns
    if local := next((pattern for pattern in listed if not is_address(pattern)), None):
        raise UsageError(f'{argument} names addresses and the local {local!r}: name shards of one kind.')
    check_addresses(listed, argument)
    addresses = [address for pattern in listed for address in expand_range(pattern, argument)]
    if not addresses:
        raise UsageError(f'{argument}={patterns!r} names no .tar file: write the smaller number of its range first.')
    for address in map(public_address, addresses):
        if not address.endswith('.tar') or '*' in address:
            raise UsageError(
                f'{argument}: {address!r} is not the address of a .tar file: name each of them, or a range in braces '
                f'such as {{00000..00331}}.tar.'
            )
    copies = {cache_dir / FOLDER / place_of(address): address for address in addresses}
    return {path: copies[path] for path in sorted(copies, key=lambda path: natural_order(path.as_posix()))}
