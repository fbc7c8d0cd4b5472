"""Captions by image, as annotation files have them: several to an image, some twice, some of images that are gone."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.files.arrow_cache import stored_batches
from datamodules.files.reading import cleaned
from datamodules.rows.subsets import rows_of_groups
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

Annotated = tuple[str | None, list[str]]  # a file and its captions as published; None for captions of no image
SCHEMA = pa.schema(
    [
        ('image', pa.string()),
        ('captions', pa.list_(pa.string())),  # cleaned, none empty, in the published order
        ('published', pa.int32()),  # captions before that
        ('empty', pa.int32()),
        ('repeated', pa.int32()),
        ('broken', pa.int32()),  # captions with a line break
    ]
)
_IMAGES_AT_ONCE = 1000  # 50,000 captions of Visual Genome
_VERSION = 1  # of the cache; what was written by other rules is not read


def grouped(images: Iterable[Annotated]) -> Iterator[pa.RecordBatch]:
    """Batches of :data:`SCHEMA`, a row for each image; only one batch of captions is in memory."""
    images = iter(images)
    while batch := list(islice(images, _IMAGES_AT_ONCE)):
        raw = pa.array(chain.from_iterable(captions for _, captions in batch), pa.string())
        clean = iter(cleaned(raw).to_pylist())
        rows = [_row(image, captions, list(islice(clean, len(captions)))) for image, captions in batch]
        yield pa.RecordBatch.from_pylist(rows, SCHEMA)


def _row(image: str | None, published: Sequence[str], clean: Sequence[str]) -> dict[str, object]:
    full = [caption for caption in clean if caption]
    broken = sum('\n' in caption.strip() or '\r' in caption.strip() for caption in published)
    return {
        'image': image, 'captions': full, 'published': len(clean), 'empty': len(clean) - len(full),
        'repeated': len(full) - len(set(full)), 'broken': broken,
    }  # fmt: skip


def stored_groups(files: Sequence[Path], cache_dir: Path, read: Callable[[], Iterable[Annotated]]) -> pa.Table:
    """A table of :data:`SCHEMA`, read from annotation files once and mapped into memory from then on.

    Args:
        files: The files; their names, sizes and times of change name the cache.
        cache_dir: Where caches lie.
        read: Reads the files.
    """
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr((_VERSION, state)).encode()).hexdigest()[:16]
    return stored_batches(cache_dir / f'captions-{digest}.arrow', SCHEMA, lambda: grouped(read()))


class CaptionGroups:
    """The images that are there, each with its captions; what is odd about the others is counted in the log.

    Args:
        groups: Table of :data:`SCHEMA`.
        there: References of the images that are there by the name of their file.
        folder: Where they are, for messages.
        source: What was read, as ``data.<argument>=<value>``.
        usual: Captions of an image where all have the same number; ``None`` where they vary.

    Raises:
        UsageError: If none of the images is there.
    """

    def __init__(
        self, groups: pa.Table, there: Mapping[str, str], folder: Path, source: str, usual: int | None = None
    ) -> None:
        self.groups, self.source = groups, source
        self.names: list[str | None] = groups['image'].to_pylist()
        self.references = pa.array([there.get(name) if name else None for name in self.names], pa.string())
        if not len(self.references.drop_null()):
            raise UsageError(
                f'{source}: none of its {len(groups):,} images is in {str(folder)!r}'
                + (f', where {self.names[0]!r} should be' if self.names else '')
                + ': unpack the images there, see docs/data.md.'
            )
        self._tell(usual)

    def pairs(self, count: int | None, seed: int, keep: np.ndarray | None = None) -> tuple[pa.Array, pa.Array]:
        """References and captions, a row for each caption, in the published order.

        Args:
            count: Captions to draw of each image, none twice, as far as it has them; all as published if ``None``.
            seed: Seed of the draw.
            keep: Which images, bool; all if ``None``.
        """
        captions, images = self._chosen(count, seed, keep)
        return images.take(pc.list_parent_indices(captions)), captions.flatten()

    def joined(self, count: int, seed: int, separator: str) -> tuple[pa.Array, pa.Array]:
        """References and captions, a row for each image: several different captions of it, drawn and put together."""
        captions, images = self._chosen(count, seed, None)
        return images, pc.binary_join(captions, separator)

    def _chosen(self, count: int | None, seed: int, keep: np.ndarray | None) -> tuple[pa.ListArray, pa.Array]:
        """Captions and references of images that have both."""
        captions = self.groups['captions'] if count is None else _drawn(self.groups['captions'], count, seed)
        there = self._usable if keep is None else self._usable & keep
        if not there.any():
            raise UsageError(f'{self.source} has no usable pair: none of these images has a file and a caption.')
        mask = pa.array(there)
        return captions.filter(mask).combine_chunks(), self.references.filter(mask)

    @cached_property
    def _usable(self) -> np.ndarray:
        return np.asarray(self.references.is_valid()) & (self._numbers('published') > self._numbers('empty'))

    def _numbers(self, name: str) -> np.ndarray:
        return self.groups[name].to_numpy()

    def _tell(self, usual: int | None) -> None:
        """One line for each thing that is odd; captions are counted before any is left out."""
        published = self._numbers('published')
        gone = np.asarray(self.references.is_null())
        captions = int(published.sum())
        self._say(int(published[gone].sum()), captions, 'captions belong to images that do not exist; left out')
        self._say(int((published[~gone] == 0).sum()), len(published), 'images have no caption; left out')
        self._say(int(self._numbers('empty').sum()), captions, 'captions are empty; left out')
        self._say(int(self._numbers('repeated').sum()), captions, 'captions repeat another one of the same image')
        self._say(int(self._numbers('broken').sum()), captions, 'captions hold a line break; taken for a space')
        if usual is not None:
            more = Counter(published[~gone & (published > usual)].tolist())
            numbers = ', '.join(f'{number} of {size} captions' for size, number in sorted(more.items()))
            self._say(more.total(), len(published), f'images have more than {usual} captions ({numbers})')

    def _say(self, number: int, total: int, what: str) -> None:
        if number:
            log.warning('%s: %d of %d %s', self.source, number, total, what)


def _drawn(captions: pa.ChunkedArray, count: int, seed: int) -> pa.ChunkedArray:
    """Lists of at most ``count`` different captions drawn from each list, in the order of the list."""
    parts, start = [], 0
    for part in map(_distinct, captions.chunks):
        sizes = pc.list_value_length(part).to_numpy()
        rows = rows_of_groups(sizes, count, seed, start)
        parts.append(_lists(np.minimum(sizes, count), part.flatten().take(pa.array(rows))))
        start += len(part)
    return pa.chunked_array(parts, SCHEMA.field('captions').type)


def _distinct(lists: pa.ListArray) -> pa.ListArray:
    """Lists of strings without those that have come before in the same list."""
    values, row = lists.flatten(), pc.list_parent_indices(lists).to_numpy()
    known = values.dictionary_encode()
    code = known.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    _, first = np.unique(row * len(known.dictionary) + code, return_index=True)
    first.sort()
    return _lists(np.bincount(row[first], minlength=len(lists)), values.take(pa.array(first)))


def _lists(sizes: np.ndarray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *sizes]), pa.int32()), values)
