"""Indexes WebDataset tar shards once, so that each pair has a row number and each picture a known byte range."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from datamodules.files.arrow_cache import stored_table
from datamodules.files.reading import drop_empty_captions
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

MAX_TEXT_BYTES = 1 << 20  # of a caption or its metadata; larger members are not captions
_IMAGE_EXTENSIONS = ('jpg', 'jpeg', 'png', 'webp', 'bmp', 'gif')  # the first that a sample has is its picture
_SCHEMA = pa.schema([(name, pa.string()) for name in ('image', 'caption', 'label', 'key', 'uid')])
_INDEX_VERSION = 2  # raised when the rules of indexing change, so that older indices are not read


# --- finding shards -------------------------------------------------------------------------------------------------


def find_shards(patterns: str | Sequence[str], argument: str) -> list[Path]:
    """Lists the tar files of a folder, of a pattern or of several of these, sorted.

    Args:
        patterns: A folder of tar files, a file, a pattern such as ``cc3m-{00000..00331}.tar``, or a list of these.
        argument: Name of the argument that holds the patterns, for messages.

    Raises:
        UsageError: If there is no shard, or one is missing, compressed, or a stream.
    """
    all_patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    shards = sorted({Path(name) for pattern in all_patterns for name in _expand_pattern(pattern, argument)})
    if not shards:
        raise UsageError(f'{argument}={patterns!r} names no .tar file: give a folder, a file or a pattern of them.')
    if missing := [shard for shard in shards if not shard.is_file()]:
        raise UsageError(
            f'{argument}={patterns!r}: {len(missing)} of {len(shards)} shards do not exist, the first is {missing[0]}.'
        )
    if not_tar := next((shard for shard in shards if shard.suffix.lower() != '.tar'), None):
        raise UsageError(f'{argument}: {not_tar} is not an uncompressed .tar file: decompress it and name the .tar.')
    return shards


def is_pattern(path: str) -> bool:
    """Tells whether a path is a tar file, a pattern or a stream, rather than a folder or another file."""
    return _is_stream(path) or path.lower().endswith('.tar') or any(mark in path for mark in '*?{')


def _is_stream(path: str) -> bool:
    return re.match(r'pipe:|[a-z][a-z0-9+.-]+://', path, re.IGNORECASE) is not None


def _expand_pattern(pattern: str, argument: str) -> list[str]:
    if _is_stream(pattern):
        raise UsageError(
            f'{argument}={pattern!r} is a stream, but SafeCLIP needs row ids, which a stream does not have: '
            f'shards must be local files, so download them and name the files.'
        )
    if os.path.isdir(pattern):
        return _list_shards(Path(pattern), argument)
    return [
        name
        for expanded in expand_braces(pattern)
        for name in (glob.glob(expanded) if re.search(r'[*?[]', expanded) else [expanded])
    ]


def _list_shards(folder: Path, argument: str) -> list[str]:
    """Lists the tar files of a folder, which must be one set: validation shards often lie beside training shards."""
    shards = sorted(folder.glob('*.tar'))
    sets = {re.sub(r'\d+', '', shard.name): re.sub(r'\d+(?=\D*$)', '*', shard.name) for shard in shards}
    if len(sets) > 1:
        raise UsageError(
            f'{argument}={str(folder)!r} contains shards of several sets: name {" or ".join(sets.values())}.'
        )
    return [str(shard) for shard in shards]


def expand_braces(pattern: str) -> list[str]:
    """Expands ranges in braces as WebDataset does; several ranges in all combinations.

    Example:
        >>> expand_braces('cc3m-{08..10}.tar')
        ['cc3m-08.tar', 'cc3m-09.tar', 'cc3m-10.tar']
    """
    braces = re.search(r'\{(\d+)\.\.(\d+)\}', pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    numbers = (f'{number:0{len(first)}d}' for number in range(int(first), int(last) + 1))
    return [name for n in numbers for name in expand_braces(pattern[: braces.start()] + n + pattern[braces.end() :])]


def shards_root(shards: Sequence[Path]) -> Path:
    """Returns the folder that image references are relative to."""
    return Path(os.path.commonpath([shard.parent for shard in shards]))


# --- indexing them --------------------------------------------------------------------------------------------------


def index_shards(shards: Sequence[Path], cache_dir: Path, source: str, labels_from: str | None = None) -> pa.Table:
    """Lists the usable pairs of shards, from a stored index if there is one.

    Args:
        shards: Tar files, sorted.
        cache_dir: Folder of the indices.
        source: How the user named the shards, as ``data.<argument>=<value>``, for messages.
        labels_from: Key of the class in a sample's metadata.

    Returns:
        A memory-mapped table with the columns ``image`` (``<shard>:<offset>:<size>``), ``caption``, ``label``, and the
        sample's ``key`` and ``uid`` (DataComp's identifier); ``label`` and ``uid`` are null where there is none.

    Raises:
        UsageError: If a shard is damaged or no pair is usable.
    """
    root = shards_root(shards)
    names = [shard.relative_to(root).as_posix() for shard in shards]
    state = [(name, shard.stat().st_size, shard.stat().st_mtime_ns) for name, shard in zip(names, shards, strict=True)]
    digest = hashlib.sha256(repr((_INDEX_VERSION, labels_from, state)).encode()).hexdigest()[:16]

    def build_index() -> pa.Table:
        progress = tqdm(zip(shards, names, strict=True), 'indexing', len(shards), leave=False, disable=len(shards) < 20)
        tables = (_index_shard(shard, name, labels_from) for shard, name in progress)
        return drop_empty_captions(pa.concat_tables(tables), source)

    return stored_table(cache_dir / f'shards-{digest}.arrow', build_index)


def _index_shard(shard: Path, name: str, labels_from: str | None) -> pa.Table:
    """Lists the pairs of one shard in its own order, captions not cleaned yet; drops samples without a picture."""
    try:
        with tarfile.open(shard, 'r:') as tar:
            samples = _group_members(tar, shard).values()
            _check_end(tar)
            pairs = [_read_pair(tar, sample, name, labels_from) for sample in samples]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UsageError(f'shard {shard} is damaged ({error}): download it again or leave it out.') from error
    kept = [pair for pair in pairs if pair is not None]
    if len(kept) < len(pairs):
        log.warning('%s: %d of %d samples have no picture and are left out', shard, len(pairs) - len(kept), len(pairs))
    return pa.Table.from_pylist(kept, _SCHEMA)


def _group_members(tar: Iterable[tarfile.TarInfo], shard: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Groups members by key, then extension; as in WebDataset the key ends at the first dot of the file's name."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in filter(tarfile.TarInfo.isreg, tar):
        folder, _, file = member.name.rpartition('/')
        key, _, extension = file.partition('.')
        sample = samples.setdefault(f'{folder}/{key}', {}) if key else {}  # no key: ._0.jpg, left behind by macOS
        if extension.lower() in sample:
            raise UsageError(f'shard {shard} contains {member.name!r} twice: write every sample under its own key.')
        sample[extension.lower()] = member
    return samples


def _check_end(tar: tarfile.TarFile) -> None:
    """Detects a shard that is cut off within a header, which ``tarfile`` takes for the end of the archive."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f'broken header at byte {tar.offset:,}')


def _read_pair(
    tar: tarfile.TarFile, sample: dict[str, tarfile.TarInfo], name: str, labels_from: str | None
) -> dict[str, str | None] | None:
    picture = next((sample[extension] for extension in _IMAGE_EXTENSIONS if extension in sample), None)
    if picture is None:
        return None
    text = _read_text(tar, sample.get('txt'))
    metadata = _read_text(tar, sample.get('json'))
    label = None if labels_from is None else json_text(metadata, labels_from)
    reference = f'{name}:{picture.offset_data}:{picture.size}'
    key = picture.name.rpartition('/')[2].partition('.')[0]
    names = {'image': reference, 'key': key, 'uid': json_text(metadata, 'uid')}
    return {**names, 'caption': choose_caption(text, metadata), 'label': label}


def _read_text(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> bytes | None:
    if member is None or member.size > MAX_TEXT_BYTES:
        return None
    assert tar.fileobj is not None
    tar.fileobj.seek(member.offset_data)  # extractfile() does the same, but takes several times as long
    return tar.fileobj.read(member.size)


def choose_caption(text: bytes | None, metadata: bytes | None) -> str | None:
    """Takes the caption from a sample's text file, else from its JSON metadata, else ``None``."""
    return text.decode('utf-8', 'replace') if text is not None else json_text(metadata, 'caption')


def json_text(metadata: bytes | None, key: str) -> str | None:
    """Returns the string or number under a key of a JSON object as text, ``None`` if there is no such value.

    Example:
        >>> json_text(b'{"caption": "a dog", "class": 7}', 'class')
        '7'
    """
    try:
        value = json.loads(metadata or b'{}')[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_text = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).encode('utf-8', 'replace').decode() if is_text else None  # UTF-8 cannot encode lone surrogates
