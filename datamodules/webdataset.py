"""WebDataset shards as a table: tar files are indexed once, so that every pair has a row number."""

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
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from datamodules.files.arrow_cache import stored_table
from datamodules.files.reading import column, usable
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import TarImages
from datamodules.rows.table import PairTable
from datamodules.text.labels import numbered
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

MAX_TEXT = 1 << 20  # bytes of a caption or of its metadata; a shard that holds more there is no caption's
_IMAGES = ('jpg', 'jpeg', 'png', 'webp', 'bmp', 'gif')  # the first that a sample has is its picture
_SCHEMA = pa.schema([('image', pa.string()), ('caption', pa.string()), ('label', pa.string())])
_VERSION = 1  # of the index; one written by other rules is not read


class WebDatasetPairs(PairsDataModule):
    """Pairs in tar shards: members ``<key>.jpg`` with ``<key>.txt``, or ``<key>.json`` holding ``caption``.

    Shards are read through once and the place of every picture is written to an index in ``cache_dir``, so that
    pairs have row numbers and are drawn like those of any other set. Rows are in the order of the shards' names.

    Args:
        shards: Tar files: a folder, a pattern such as ``cc3m-{00000..00331}.tar`` or ``cc3m-*.tar``, or several.
        validation: Shards of held-out pairs.
        labels_from: Key of the class in ``<key>.json``: a name, or an index into ``class_names``.
        **kwargs: As for :class:`PairsDataModule`.
    """

    def __init__(
        self,
        shards: str | list[str],
        validation: str | list[str] | None = None,
        labels_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shards, self.validation, self.labels_from = shards, validation, labels_from

    def load_table(self) -> PairTable:
        """The training pairs, in the order of the shards."""
        return self._read(self.shards, 'data.shards')

    def load_heldout(self) -> PairTable | None:
        """The held-out pairs, if any were named."""
        return None if self.validation is None else self._read(self.validation, 'data.validation')

    def _read(self, patterns: str | list[str], argument: str) -> PairTable:
        shards, source = found_shards(patterns, argument), f'{argument}={patterns!r}'
        index = shard_index(shards, self.cache_dir, source, self.labels_from)
        image, caption, opener = column(index, 'image'), column(index, 'caption'), TarImages(shard_home(shards))
        if self.labels_from is None:
            return PairTable(image, caption, opener=opener)
        label, classes = numbered(index['label'], self.class_names, source)
        return PairTable(image, caption, label, classes, opener=opener)


# --- which shards ---------------------------------------------------------------------------------------------------


def found_shards(patterns: str | Sequence[str], argument: str) -> list[Path]:
    """Tar files that a folder, a pattern or several of them stand for, sorted.

    Raises:
        UsageError: If there is none, one is absent or compressed, or it is to be read from a network or a pipe.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    shards = sorted({Path(name) for pattern in given for name in _names(pattern, argument)})
    if not shards:
        raise UsageError(f'{argument}={patterns!r} names no .tar file: give a folder, a file or a pattern of them.')
    if absent := [shard for shard in shards if not shard.is_file()]:
        raise UsageError(
            f'{argument}={patterns!r}: {len(absent)} of {len(shards)} shards do not exist, the first is {absent[0]}.'
        )
    if strange := next((shard for shard in shards if shard.suffix.lower() != '.tar'), None):
        raise UsageError(f'{argument}: {strange} is not an uncompressed .tar, so no picture can be read by its place.')
    return shards


def is_pattern(path: str) -> bool:
    """Whether a path stands for tar files that are not simply all those of a folder."""
    return _is_remote(path) or path.lower().endswith('.tar') or any(mark in path for mark in '*?{')


def _is_remote(path: str) -> bool:
    return re.match(r'pipe:|[a-z][a-z0-9+.-]+://', path, re.IGNORECASE) is not None


def _names(pattern: str, argument: str) -> list[str]:
    if _is_remote(pattern):
        raise UsageError(
            f'{argument}={pattern!r} is a stream, and SafeCLIP needs row ids, which a stream does not have: '
            f'shards must be local files, so download them and name those.'
        )
    if os.path.isdir(pattern):
        return _all_of(Path(pattern), argument)
    return [name for one in _expanded(pattern) for name in (glob.glob(one) if re.search(r'[*?[]', one) else [one])]


def _all_of(folder: Path, argument: str) -> list[str]:
    """The tar files of a folder, which must be of one set: validation shards often lie beside those of training."""
    shards = sorted(folder.glob('*.tar'))
    sets = {re.sub(r'\d+', '', shard.name): re.sub(r'\d+(?=\D*$)', '*', shard.name) for shard in shards}
    if len(sets) > 1:
        raise UsageError(f'{argument}={str(folder)!r} holds shards of several sets: name {" or ".join(sets.values())}.')
    return [str(shard) for shard in shards]


def _expanded(pattern: str) -> list[str]:
    """``a{00..02}`` as a00, a01, a02; several braces in all combinations."""
    braces = re.search(r'\{(\d+)\.\.(\d+)\}', pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    numbers = (f'{number:0{len(first)}d}' for number in range(int(first), int(last) + 1))
    return [name for n in numbers for name in _expanded(pattern[: braces.start()] + n + pattern[braces.end() :])]


def shard_home(shards: Sequence[Path]) -> Path:
    """The folder that image references are relative to."""
    return Path(os.path.commonpath([shard.parent for shard in shards]))


# --- what is in them ------------------------------------------------------------------------------------------------


def shard_index(shards: Sequence[Path], cache_dir: Path, source: str, labels_from: str | None = None) -> pa.Table:
    """The usable pairs of some shards, from the index or into it.

    Args:
        shards: Tar files, sorted.
        cache_dir: Where indices lie.
        source: What is read, as ``data.<argument>=<value>``.
        labels_from: Key of the class in a sample's metadata.

    Returns:
        Columns ``image``, a reference that :class:`TarImages` understands, ``caption`` and ``label``, null where
        there is none; memory-mapped.

    Raises:
        UsageError: If a shard is damaged or no pair is usable.
    """
    names = [shard.relative_to(shard_home(shards)).as_posix() for shard in shards]
    state = [(name, shard.stat().st_size, shard.stat().st_mtime_ns) for name, shard in zip(names, shards, strict=True)]
    digest = hashlib.sha256(repr((_VERSION, labels_from, state)).encode()).hexdigest()[:16]

    def read_through() -> pa.Table:
        progress = tqdm(zip(shards, names, strict=True), 'indexing', len(shards), leave=False, disable=len(shards) < 20)
        return usable(pa.concat_tables(_indexed(shard, name, labels_from) for shard, name in progress), source)

    return stored_table(cache_dir / f'shards-{digest}.arrow', read_through)


def _indexed(shard: Path, name: str, labels_from: str | None) -> pa.Table:
    """Pairs of one shard, in its own order, captions as they stand; samples without a picture are left out."""
    try:
        with tarfile.open(shard, 'r:') as tar:
            samples = _samples(tar, shard).values()
            _check_end(tar)
            pairs = [_pair(tar, sample, name, labels_from) for sample in samples]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UsageError(f'shard {shard} is damaged ({error}): download it again or leave it out.') from error
    kept = [pair for pair in pairs if pair is not None]
    if len(kept) < len(pairs):
        log.warning('%s: %d of %d samples have no picture and are left out', shard, len(pairs) - len(kept), len(pairs))
    return pa.Table.from_pylist(kept, _SCHEMA)


def _samples(tar: Iterable[tarfile.TarInfo], shard: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Members by key and extension; the key ends at the first dot of the file's name, as WebDataset has it."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in filter(tarfile.TarInfo.isreg, tar):
        folder, _, file = member.name.rpartition('/')
        key, _, extension = file.partition('.')
        sample = samples.setdefault(f'{folder}/{key}', {}) if key else {}  # no key: ._0.jpg, left behind by macOS
        if extension.lower() in sample:
            raise UsageError(f'shard {shard} holds two members {member.name!r}: write every sample under its own key.')
        sample[extension.lower()] = member
    return samples


def _check_end(tar: tarfile.TarFile) -> None:
    """Finds a shard that breaks off within a header, which ``tarfile`` takes for its end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f'broken header at byte {tar.offset:,}')


def _pair(
    tar: tarfile.TarFile, sample: dict[str, tarfile.TarInfo], name: str, labels_from: str | None
) -> dict[str, str | None] | None:
    picture = next((sample[extension] for extension in _IMAGES if extension in sample), None)
    if picture is None:
        return None
    text = _content(tar, sample.get('txt'))
    metadata = _content(tar, sample.get('json')) if text is None or labels_from is not None else None
    label = None if labels_from is None else json_text(metadata, labels_from)
    reference = f'{name}:{picture.offset_data}:{picture.size}'
    return {'image': reference, 'caption': caption_of(text, metadata), 'label': label}


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> bytes | None:
    if member is None or member.size > MAX_TEXT:
        return None
    assert tar.fileobj is not None
    tar.fileobj.seek(member.offset_data)  # extractfile() does the same, but takes several times as long
    return tar.fileobj.read(member.size)


def caption_of(text: bytes | None, metadata: bytes | None) -> str | None:
    """The caption from a sample's text file, else from its metadata, else ``None``."""
    return text.decode('utf-8', 'replace') if text is not None else json_text(metadata, 'caption')


def json_text(metadata: bytes | None, key: str) -> str | None:
    """A string or number under a key of a JSON object, as text; ``None`` if there is none, or no valid JSON."""
    try:
        value = json.loads(metadata or b'{}')[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).encode('utf-8', 'replace').decode() if known else None  # a lone surrogate is no UTF-8
