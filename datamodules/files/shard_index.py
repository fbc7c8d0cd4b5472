"""Indexes WebDataset tar shards once, so that each pair has a row number and each picture a known byte range.

Rows are in the order of the shards and, within a shard, of the keys. They do not depend on the order of the members,
which is that in which downloads happened to finish; only among several pictures of one sample does the first count.
"""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from datamodules.files.arrow_cache import stored_table
from datamodules.files.left_behind import is_left_behind
from datamodules.files.left_out import LeftOut
from datamodules.files.natural_order import natural_order
from datamodules.files.quoting import quote
from datamodules.files.reading import clean_captions
from datamodules.files.sample_texts import MAX_TEXT_BYTES, choose_caption, parse_metadata, text_under
from datamodules.files.shard_references import format_reference, strip_keys
from datamodules.files.shards import ShardFolder
from datamodules.files.shared_table import shared_table
from datamodules.files.tar_members import DamagedTarError, TarMember, walk_members
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

_MAX_PICTURE_BYTES = 1 << 28  # as of a picture in a folder
_MAX_NAME = 4096  # as of a path on Linux
_PICTURES = ('jpg', 'jpeg', 'png', 'webp', 'bmp', 'gif', 'tif', 'tiff', 'ppm', 'pgm')  # the first of a sample counts
_RANK = {extension: rank for rank, extension in enumerate((*_PICTURES, 'txt', 'json'))}
_SCHEMA = pa.schema([(name, pa.string()) for name in ('image', 'caption', 'label', 'key', 'uid')])
_NO_CAPTION = 'have no caption'
_MAX_EXTENSION = 20  # letters in a message
_SHOWN = 3  # extensions in a message
_LEFT_OUT = b'left_out'  # in the metadata of the index: what was left out, said again whenever the index is used
_VERSION = 5  # raised when the rules of indexing change, so that older indices are not read

Sample = dict[str, str]  # path of its member by kind: picture, txt or json


@dataclass(frozen=True)
class MetadataKeys:
    """Keys in a sample's ``.json`` file.

    Attributes:
        caption: Key of the caption; ``None`` for that of the ``.txt`` file, else ``caption``.
        label: Key of the class; ``None`` for pairs without a class.
    """

    caption: str | None = None
    label: str | None = None


class _Report:
    """Counts what is left out of all shards, so that nothing vanishes without a word."""

    def __init__(self, shards: int) -> None:
        self.left_out = {things: LeftOut(things) for things in ('shards', 'members', 'samples', 'pictures')}
        self.total = Counter({'shards': shards})
        self.unread: Counter[str] = Counter()  # members by extension that are no picture, caption or metadata

    def add(self, things: str, kind: str, shard: str, names: Iterable[str]) -> None:
        for name in names:
            self.left_out[things].add(kind, quote(f'{shard}:{name}'))

    def lines(self) -> list[str]:
        return [counted.describe(self.total[things]) for things, counted in self.left_out.items() if len(counted)]


def index_shards(shards: ShardFolder, cache_dir: Path, source: str, keys: MetadataKeys | None = None) -> pa.Table:
    """Lists the usable pairs of shards, from a stored index if there is one, and logs what is left out.

    Args:
        shards: The shards.
        cache_dir: Folder of the indices.
        source: How the user named the shards, as ``data.<argument>=<value>``, for messages.
        keys: Where caption and class stand in a sample's metadata.

    Returns:
        A memory-mapped table with the columns ``image`` (see ``shard_references.py``), ``caption``, ``label``, and the
        sample's ``key`` and ``uid`` (DataComp's identifier); ``label`` and ``uid`` are null where there is none.

    Raises:
        UsageError: If no pair is usable.
    """
    keys = keys or MetadataKeys()
    content = shards.identity(pa.array(filter(_is_utf8, shards.names), pa.string()))
    digest = hashlib.sha256(repr((_VERSION, keys, shards.names, content)).encode()).hexdigest()[:16]
    name = f'shards-{digest}.arrow'

    def make() -> pa.Table:
        if shards.folder_address is None:
            return _build_index(shards, keys, source)
        address = f'{shards.folder_address}{name}'
        return shared_table(address, lambda: _build_index(shards, keys, source), lambda table: _fits(table, shards))

    index = stored_table(cache_dir / name, make)
    for line in json.loads(index.schema.metadata[_LEFT_OUT]):
        log.warning('%s: %s', source, line)
    return index


def _fits(index: pa.Table, shards: ShardFolder) -> bool:
    """Whether a table may be the index of these shards, and names no other file."""
    if not index.schema.equals(_SCHEMA) or _LEFT_OUT not in (index.schema.metadata or {}):
        return False
    return set(pc.unique(strip_keys(index['image'])).to_pylist()) <= set(shards.names)


def _build_index(shards: ShardFolder, keys: MetadataKeys, source: str) -> pa.Table:
    report = _Report(len(shards.names))
    progress = tqdm(shards.names, 'indexing', leave=False, disable=len(shards.names) < 20)
    pairs = pa.concat_tables([_index_shard(shards, name, keys, report) for name in progress])
    if not len(pairs):
        reasons = ', '.join(report.lines()) or f'its {len(shards.names)} shards are empty'
        raise UsageError(f'{source} has no usable pair: {reasons}{_advise_on_captions(report)}.')
    return pairs.replace_schema_metadata({_LEFT_OUT: json.dumps(report.lines())})


def _advise_on_captions(report: _Report) -> str:
    """Says where captions belong, and what other members there are, if pictures lack them; else nothing."""
    if not report.left_out['pictures'].counts[_NO_CAPTION]:
        return ''
    ends = [quote(extension) for extension, _ in report.unread.most_common() if extension][:_SHOWN]
    unread = f' (members that end in {", ".join(ends)} are not read)' if ends else ''
    where = 'put captions into <key>.txt, or name their key in <key>.json as data.captions_from of WebDatasetPairs'
    return f'; {where}{unread}'


# --- one shard ------------------------------------------------------------------------------------------------------


def _is_utf8(name: str) -> bool:
    return name.encode(errors='replace') == name.encode(errors='surrogateescape')


def _index_shard(shards: ShardFolder, name: str, keys: MetadataKeys, report: _Report) -> pa.Table:
    """Lists the pairs of one shard in the order of their keys."""
    if not _is_utf8(name):
        report.left_out['shards'].add('have a name that is not UTF-8', quote(name))
        return _SCHEMA.empty_table()
    with shards.open(name) as file:
        members = _list_members(file, name, report)
        samples, further = _pair(members)
        _report_samples(samples, further, name, report)
        complete = sorted((key for key, sample in samples.items() if 'picture' in sample), key=natural_order)
        rows = [_read_sample(file, name, key, samples[key], members, keys) for key in complete]
    pairs = pa.Table.from_pylist(rows, _SCHEMA)
    pairs = pairs.set_column(1, _SCHEMA.field('caption'), clean_captions(pairs['caption']))
    has_caption = pc.fill_null(pc.not_equal(pairs['caption'], ''), False)
    report.add('pictures', _NO_CAPTION, name, pairs['key'].filter(pc.invert(has_caption)).to_pylist())
    return pairs.filter(has_caption)


def _list_members(file: BinaryIO, name: str, report: _Report) -> dict[str, TarMember]:
    """Lists pictures, captions and metadata by their path in the shard."""
    members: dict[str, TarMember] = {}
    try:
        for member in walk_members(file):
            path = posixpath.normpath(member.name) if '/' in member.name else member.name
            if _extension(path) not in _RANK:
                report.unread[posixpath.splitext(path)[1][:_MAX_EXTENSION]] += 1
                continue
            report.total['members'] += 1
            if fault := _find_fault(member, path):
                report.add('members', fault, name, [path])
                continue
            if path in members:
                report.add('members', 'are replaced by a later one of the same name', name, [path])
            members[path] = member
    except (DamagedTarError, OSError) as error:
        report.left_out['shards'].add('are damaged and read up to the damage', f'{quote(name)} ({error})')
    return members


def _find_fault(member: TarMember, path: str) -> str | None:
    if any(map(is_left_behind, path.split('/'))):
        return 'are hidden or left behind by a system'
    if not member.is_file:
        return 'are links, devices or sparse files'
    if len(path) > _MAX_NAME:
        return f'have a name of over {_MAX_NAME:,} characters'
    return f'are over {_MAX_PICTURE_BYTES >> 20} MiB' if member.size > _MAX_PICTURE_BYTES else None


def _report_samples(samples: Mapping[str, Sample], further: Sequence[str], name: str, report: _Report) -> None:
    report.total['samples'] += len(samples)
    report.add('samples', 'have no picture', name, (key for key, sample in samples.items() if 'picture' not in sample))
    report.total['pictures'] += sum('picture' in sample for sample in samples.values())
    for path in further:
        if _kind(path) == 'picture':
            report.total['pictures'] += 1
            report.add('pictures', 'are further ones of a sample', name, [path])
        else:
            report.add('members', 'are further captions of a sample', name, [path])


def _extension(path: str) -> str:
    return path.rpartition('.')[2].lower()


def _kind(path: str) -> str:
    extension = _extension(path)
    return extension if extension in ('txt', 'json') else 'picture'


def _pair(paths: Iterable[str]) -> tuple[dict[str, Sample], list[str]]:
    """Groups members into samples by key, and lists further ones of a kind that a sample has already.

    The key is all that stands before the last dot. Where another rule makes more pairs of a shard, it is WebDataset's,
    all before the first dot of the file's name: ``0.image.jpg`` and ``0.txt`` are a pair. Where a third makes still
    more, a picture has the longest key of a text that its name begins with: ``v1.0_3.image.jpg`` and ``v1.0_3.txt``.
    Of several pictures of one format in a sample, that with the fewest dots in its name counts, then the first in the
    shard.
    """
    listed = list(paths)
    preferred = sorted(listed, key=lambda path: (_RANK[_extension(path)], path.count('.')))  # equals: as in the shard
    best = _group(preferred, _key_before_last_dot)
    if any('.' in key.rpartition('/')[2] for key in best[0]):
        for rule in (_key_before_first_dot, _keys_of_texts(listed)):
            best = max(best, _group(preferred, rule), key=lambda grouped: _count_pairs(grouped[0]))
    return best


def _group(paths: Iterable[str], key: Callable[[str], str]) -> tuple[dict[str, Sample], list[str]]:
    samples: dict[str, Sample] = {}
    further = []
    for path in paths:
        if samples.setdefault(key(path), {}).setdefault(_kind(path), path) is not path:
            further.append(path)
    return samples, further


def _key_before_last_dot(path: str) -> str:
    return path.rpartition('.')[0]


def _key_before_first_dot(path: str) -> str:
    folder, slash, file = path.rpartition('/')
    return folder + slash + file.partition('.')[0]


def _keys_of_texts(paths: Iterable[str]) -> Callable[[str], str]:
    """Returns the rule by which a picture has the longest key of a text that its name, cut at a dot, begins with."""
    keys = {_key_before_last_dot(path) for path in paths if _kind(path) != 'picture'}

    def key(path: str) -> str:
        if _kind(path) != 'picture':
            return _key_before_last_dot(path)
        start, ends = path.rfind('/') + 1, [place for place, letter in enumerate(path) if letter == '.']
        prefixes = [path, *(path[:end] for end in reversed(ends) if end > start)]
        return next((prefix for prefix in prefixes if prefix in keys), _key_before_last_dot(path))

    return key


def _count_pairs(samples: Mapping[str, Sample]) -> int:
    return sum('picture' in sample and len(sample) > 1 for sample in samples.values())


def _read_sample(
    file: BinaryIO, name: str, key: str, sample: Sample, members: Mapping[str, TarMember], keys: MetadataKeys
) -> dict[str, str | None]:
    picture = members[sample['picture']]
    text, content = (_read_text(file, members.get(sample.get(kind, ''))) for kind in ('txt', 'json'))
    metadata = parse_metadata(content)
    return {
        'image': format_reference(name, key, picture.offset, picture.size),
        'caption': choose_caption(text, metadata, keys.caption),
        'label': None if keys.label is None else text_under(metadata, keys.label),
        'key': key,
        'uid': text_under(metadata, 'uid'),
    }


def _read_text(file: BinaryIO, member: TarMember | None) -> bytes | None:
    if member is None or member.size > MAX_TEXT_BYTES:
        return None
    file.seek(member.offset)
    return file.read(member.size)
