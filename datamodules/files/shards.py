"""Finds the WebDataset tar shards that a folder, a pattern or a list of these names."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from datamodules.files.file_states import identify_files
from datamodules.files.left_behind import is_left_behind
from datamodules.files.left_out import LeftOut
from datamodules.files.natural_order import natural_order
from datamodules.files.quoting import quote
from datamodules.files.remote_addresses import is_address
from datamodules.usage_error import UsageError

_COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst', '.tar.zstd')
_MAX_SHARDS = 1_000_000  # of a range in braces: more are a typing error
_RANGE = re.compile(r'\{(\d{1,18})\.\.(\d{1,18})\}')


class ShardFolder:
    """Tar shards below a folder, by their paths relative to it.

    Args:
        root: The folder.
        shards: The files, sorted; none where all that is done is to open some of them.

    Attributes:
        names: Path of each shard relative to the folder.
        is_remote: Whether the shards are copies of remote ones.
        folder_address: Address of the folder of remote ones, if their index may lie there too.
    """

    is_remote = False
    folder_address: str | None = None

    def __init__(self, root: str | Path, shards: Sequence[Path] = ()) -> None:
        self.root = Path(root)
        self.names = [os.path.relpath(shard, root) for shard in shards]

    def open(self, name: str) -> BinaryIO:
        """Opens a shard.

        Raises:
            FileNotFoundError: If it is missing.
        """
        return open(self.root / name, 'rb', buffering=0)

    def identity(self, names: pa.Array | pa.ChunkedArray) -> bytes:
        """What tells whether some shards have changed; see :func:`datamodules.files.file_states.identify_files`."""
        return identify_files(self.root, names)


def find_shards(patterns: str | Sequence[str], argument: str) -> list[Path]:
    """Lists the tar files of a folder, of a pattern or of several of these, each once, ``9.tar`` before ``10.tar``.

    Args:
        patterns: A folder of tar files, a file, a pattern such as ``cc3m-{00000..00331}.tar``, or a list of these.
        argument: Name of the argument that holds the patterns, for messages.

    Raises:
        UsageError: If there is no shard, or one is missing, compressed, or a stream.
    """
    all_patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    names = {Path(name) for pattern in all_patterns for name in _expand_pattern(pattern, argument)}
    shards = sorted(names, key=lambda shard: natural_order(shard.as_posix()))
    if not shards:
        raise UsageError(f'{argument}={patterns!r} names no .tar file: give a folder, a file or a pattern of them.')
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise UsageError(
            f'{argument}={patterns!r}: {len(missing)} of {len(shards)} shards do not exist or are no files, the first '
            f'is {str(missing[0])!r}.'
        )
    if not_tar := next((shard for shard in shards if shard.suffix.lower() != '.tar'), None):
        raise UsageError(f'{argument}: {str(not_tar)!r} is not an uncompressed .tar file: unpack it and name the .tar.')
    first_name: dict[str, Path] = {}
    for shard in shards:
        first_name.setdefault(os.path.realpath(shard), shard.absolute())
    return list(first_name.values())


def is_pattern(path: str) -> bool:
    """Tells whether a path is a tar file, a pattern or a stream, rather than a folder or another file."""
    return _is_stream(path) or path.lower().endswith('.tar') or any(mark in path for mark in '*?{')


def _is_stream(path: str) -> bool:
    return path.lower().startswith('pipe:') or is_address(path)


def _expand_pattern(pattern: str, argument: str) -> list[str]:
    if _is_stream(pattern):
        raise UsageError(
            f'{argument}={pattern!r} is a stream, but SafeCLIP needs row ids, which a stream does not have: '
            f'write the shards to files, and name these or their addresses.'
        )
    if os.path.isdir(pattern):
        return _list_shards(Path(pattern), argument)
    return [name for expanded in expand_range(pattern, argument) for name in _expand_wildcards(expanded)]


def holds_shards(folder: str) -> bool:
    """Tells whether a folder holds a usable tar file."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith('.tar') and _find_fault(entry) is None for entry in entries)
    except OSError:
        return False


def expand_range(pattern: str, argument: str) -> list[str]:
    """Works like :func:`expand_braces`, and refuses ranges that are a typing error.

    Raises:
        UsageError: If the pattern names over a million shards.
    """
    sizes = [int(last) - int(first) + 1 for first, last in _RANGE.findall(pattern)]
    if math.prod(sizes) > _MAX_SHARDS:
        raise UsageError(f'{argument}={pattern!r} names over {_MAX_SHARDS:,} shards: check the range in braces.')
    return expand_braces(pattern)


def _expand_wildcards(pattern: str) -> list[str]:
    """Lists the files of a pattern; a path that exists stands for itself, whatever characters it has."""
    return glob.glob(pattern) if re.search(r'[*?[]', pattern) and not os.path.exists(pattern) else [pattern]


def _list_shards(folder: Path, argument: str) -> list[str]:
    """Lists the tar files of a folder, which must be one set: validation shards often lie beside training shards."""
    source = f'{argument}={str(folder)!r}'
    try:
        with os.scandir(folder) as entries:
            faults = {e.name: _find_fault(e) for e in entries if e.name.lower().endswith(('.tar', *_COMPRESSED))}
    except OSError as error:
        raise UsageError(f'{source} cannot be listed: {error.strerror}.') from error
    left_out = LeftOut('shards')
    for name, fault in sorted(faults.items()):
        if fault is not None:
            left_out.add(fault, quote(name))
    shards = sorted(name for name, fault in faults.items() if fault is None)
    if faults and not shards:
        raise UsageError(f'{source} has no usable .tar file: {left_out.describe(len(faults))}.')
    left_out.log(source, len(faults))
    sets = {re.sub(r'\d+', '', name): re.sub(r'\d+(?=\D*$)', '*', name) for name in shards}
    if len(sets) > 1:
        raise UsageError(f'{source} contains shards of several sets: name {" or ".join(map(quote, sets.values()))}.')
    return [str(folder / name) for name in shards]


def _find_fault(entry: os.DirEntry[str]) -> str | None:
    """Says why an entry of a folder is no usable shard, ``None`` if it is one."""
    if is_left_behind(entry.name):
        return 'are hidden'
    if entry.name.lower().endswith(_COMPRESSED):
        return 'are compressed and must be unpacked'
    return None if os.path.isfile(entry.path) else 'are no files'


def expand_braces(pattern: str) -> list[str]:
    """Expands ranges in braces as WebDataset does; several ranges in all combinations.

    Example:
        >>> expand_braces('cc3m-{08..10}.tar')
        ['cc3m-08.tar', 'cc3m-09.tar', 'cc3m-10.tar']
    """
    braces = _RANGE.search(pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    numbers = (f'{number:0{len(first)}d}' for number in range(int(first), int(last) + 1))
    return [name for n in numbers for name in expand_braces(pattern[: braces.start()] + n + pattern[braces.end() :])]


def shards_root(shards: Sequence[Path]) -> Path:
    """Returns the folder that names of shards, and references to their pictures, are relative to."""
    return Path(os.path.commonpath([shard.parent for shard in shards]))
