"""Captions grouped by image, as in annotation files: several to an image, some repeated, some of missing images."""

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
from datamodules.files.file_states import identify_files
from datamodules.files.reading import clean_captions, find_by_name
from datamodules.rows.subsets import random_rows_per_group
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

# File name and captions as published; None for captions of no image, and for an annotation without a caption.
AnnotatedImage = tuple[str | None, list[str | None]]
SCHEMA = pa.schema(
    [
        ('image', pa.string()),
        ('captions', pa.list_(pa.string())),  # cleaned, none empty, in the published order
        ('published', pa.int32()),  # number of annotations in the file
        ('empty', pa.int32()),
        ('absent', pa.int32()),  # annotations without a caption
        ('repeated', pa.int32()),
        ('broken', pa.int32()),  # captions with a line break
    ]
)
_BATCH_IMAGES = 1000  # 50,000 captions of Visual Genome
_CACHE_VERSION = 4  # raised when the rules change, so that older caches are not read


def group_captions(images: Iterable[AnnotatedImage]) -> Iterator[pa.RecordBatch]:
    """Yields batches of :data:`SCHEMA`, one row for each image; only one batch of captions is in memory."""
    images = iter(images)
    while batch := list(islice(images, _BATCH_IMAGES)):
        raw = pa.array(chain.from_iterable(captions for _, captions in batch), pa.string())
        clean = iter(clean_captions(raw).to_pylist())
        rows = [_count_quirks(image, captions, list(islice(clean, len(captions)))) for image, captions in batch]
        yield pa.RecordBatch.from_pylist(rows, SCHEMA)


def _count_quirks(image: str | None, published: Sequence[str | None], clean: Sequence[str | None]) -> dict[str, object]:
    """Returns a row of :data:`SCHEMA`."""
    kept = [caption for caption in clean if caption]
    broken = sum('\n' in text or '\r' in text for text in (caption.strip() for caption in published if caption))
    return {
        'image': image, 'captions': kept, 'published': len(clean), 'empty': clean.count(''),
        'absent': clean.count(None), 'repeated': len(kept) - len(set(kept)), 'broken': broken,
    }  # fmt: skip


def stored_groups(files: Sequence[Path], cache_dir: Path, read: Callable[[], Iterable[AnnotatedImage]]) -> pa.Table:
    """Reads annotation files once into a table of :data:`SCHEMA`, which is memory-mapped from then on.

    Args:
        files: The annotation files; their names and :func:`identify_files` name the cache.
        cache_dir: Folder of the cache.
        read: Reads the files.
    """
    content = [(file.name, identify_files(file.parent, pa.array([file.name]))) for file in files]
    digest = hashlib.sha256(repr((_CACHE_VERSION, content)).encode()).hexdigest()[:16]
    return stored_batches(cache_dir / f'captions-{digest}.arrow', SCHEMA, lambda: group_captions(read()))


class CaptionGroups:
    """The images that exist on disk, each with its captions; logs how many images and captions are unusual.

    Args:
        groups: Table of :data:`SCHEMA`.
        references: Image reference of each existing image, by file name, whose suffix may differ from the annotated.
        folder: Folder of the images, for messages.
        source: What was read, as ``data.<argument>=<value>``.
        expected: Number of captions that every image should have; ``None`` if it varies.

    Raises:
        UsageError: If none of the images exists.
    """

    def __init__(
        self, groups: pa.Table, references: Mapping[str, str], folder: Path, source: str, expected: int | None = None
    ) -> None:
        self.groups, self.source = groups, source
        self.names: list[str | None] = groups['image'].to_pylist()
        self.references = pa.array(find_by_name(self.names, references), pa.string())
        if not len(self.references.drop_null()):
            raise UsageError(
                f'{source}: none of its {len(groups):,} images is in {str(folder)!r}'
                + (f', where {self.names[0]!r:.100} should be' if self.names else '')
                + ': unpack the images there, see docs/data.md.'
            )
        self._log_quirks(expected)

    def pairs(self, count: int | None, seed: int, keep: np.ndarray | None = None) -> tuple[pa.Array, pa.Array]:
        """Returns image references and captions, one row for each caption, in the published order.

        Args:
            count: Number of different captions to draw for each image, as far as it has them; ``None`` takes all,
                repeated ones included.
            seed: Seed of the draw.
            keep: Which images to use, bool; ``None`` uses all.
        """
        captions, images = self._choose(count, seed, keep)
        return images.take(pc.list_parent_indices(captions)), captions.flatten()

    def join(self, count: int, seed: int, separator: str) -> tuple[pa.Array, pa.Array]:
        """Draws several different captions of each image and joins them: references and captions, a row an image."""
        captions, images = self._choose(count, seed, None)
        return images, pc.binary_join(captions, separator)

    def _choose(self, count: int | None, seed: int, keep: np.ndarray | None) -> tuple[pa.ListArray, pa.Array]:
        """Returns captions and references of the images that have both."""
        captions = self.groups['captions'] if count is None else _draw_captions(self.groups['captions'], count, seed)
        usable = self._is_usable if keep is None else self._is_usable & keep
        if not usable.any():
            raise UsageError(f'{self.source} has no usable pair: none of these images has a file and a caption.')
        mask = pa.array(usable)
        return captions.filter(mask).combine_chunks(), self.references.filter(mask)

    @cached_property
    def _is_usable(self) -> np.ndarray:
        captions = self._counts('published') - self._counts('empty') - self._counts('absent')
        return np.asarray(self.references.is_valid()) & (captions > 0)

    def _counts(self, name: str) -> np.ndarray:
        return self.groups[name].to_numpy()

    def _log_quirks(self, expected: int | None) -> None:
        """Logs one line for each kind of quirk; captions are counted before any is left out."""
        published = self._counts('published')
        missing = np.asarray(self.references.is_null())
        captions = int(published.sum())
        self._warn(int(published[missing].sum()), captions, 'captions belong to images that do not exist; left out')
        nameless = int((np.asarray(self.groups['image'].is_null()) & (published == 0)).sum())
        self._warn(nameless, len(published), 'images lack a name or number, or have that of another; left out')
        self._warn(int((published[~missing] == 0).sum()), len(published), 'images have no caption; left out')
        self._warn(int(self._counts('absent').sum()), captions, 'annotations have no caption that is text; left out')
        self._warn(int(self._counts('empty').sum()), captions, 'captions are empty; left out')
        self._warn(int(self._counts('repeated').sum()), captions, 'captions repeat another one of the same image')
        self._warn(int(self._counts('broken').sum()), captions, 'captions contain a line break; replaced by a space')
        if expected is not None:
            images_by_count = Counter(published[~missing & (published > expected)].tolist())
            counts = ', '.join(f'{images} of {count} captions' for count, images in sorted(images_by_count.items()))
            message = f'images have more than {expected} captions ({counts})'
            self._warn(images_by_count.total(), len(published), message)

    def _warn(self, number: int, total: int, message: str) -> None:
        if number:
            log.warning('%s: %d of %d %s', self.source, number, total, message)


def _draw_captions(captions: pa.ChunkedArray, count: int, seed: int) -> pa.ChunkedArray:
    """Draws at most ``count`` different captions from each list and keeps their order."""
    parts, start = [], 0
    for part in map(_drop_repeats, captions.chunks):
        sizes = pc.list_value_length(part).to_numpy()
        rows = random_rows_per_group(sizes, count, seed, start)
        parts.append(_build_lists(np.minimum(sizes, count), part.flatten().take(pa.array(rows))))
        start += len(part)
    return pa.chunked_array(parts, SCHEMA.field('captions').type)


def _drop_repeats(lists: pa.ListArray) -> pa.ListArray:
    """Drops strings that occur earlier in the same list."""
    values, row = lists.flatten(), pc.list_parent_indices(lists).to_numpy()
    encoded = values.dictionary_encode()
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    _, first = np.unique(row * len(encoded.dictionary) + code, return_index=True)
    first.sort()
    return _build_lists(np.bincount(row[first], minlength=len(lists)), values.take(pa.array(first)))


def _build_lists(sizes: np.ndarray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *sizes]), pa.int32()), values)
