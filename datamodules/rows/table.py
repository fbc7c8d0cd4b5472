"""The table of pairs: one row for each image and caption, the same rows on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Literal, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datamodules.rows.row_sets import BLOCK, blocks
from datamodules.usage_error import UsageError

Strings: TypeAlias = pa.Array | pa.ChunkedArray
Origin = Literal['train', 'heldout']  # the table that a picture comes from
UNKNOWN = -1  # label of a pair of unknown class


class ImageOpener(Protocol):
    """Turns the image reference of a row into an RGB picture.

    ``min_side``: the caller needs no side longer than this. The picture may then be decoded at reduced size, with the
    same aspect ratio and no side shorter than ``min_side``.

    An opener may also have a method ``identity(references) -> bytes``, which changes whenever the pictures do and
    names their caches; :func:`datamodules.pictures.identity.identify_pictures` uses it. An opener whose references
    hold more than what a picture is called, such as its place in a file, has a method ``names(references) -> Strings``.
    """

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image: ...


class PairTable:
    """Image references and captions in Arrow arrays, so that three million rows need no Python objects.

    A row's number is its identity: its position in the sorted source, never reused. Image references are strings
    that the opener understands (a path under a root, a position in a tar shard, an index into an array), so a table
    knows where images are without opening them.

    Args:
        image: Image reference of each row.
        caption: Caption of each row, white space normalized, never empty.
        label: True class of each row as an index into ``classes``; ``UNKNOWN`` where there is none.
        classes: Class names that ``label`` points into.
        keys: Further names of the rows by kind, such as the ``key`` and ``uid`` of a sample in a shard, null where a
            row has none. Lists of pairs may use them instead of image references.
        opener: Turns a reference into a picture.

    Raises:
        UsageError: If the columns differ in length, or there is no row.

    Example:
        >>> from datamodules.pictures.images import ArrayImages
        >>> pictures = ArrayImages(np.zeros((2, 8, 8, 3), np.uint8))
        >>> table = PairTable(['0', '1'], ['a cat', 'a dog'], [0, 1], ('cat', 'dog'), opener=pictures)
        >>> table.take(np.array([1])).captions([0]), table.open(1).size
        (['a dog'], (8, 8))
    """

    def __init__(
        self,
        image: Sequence[str] | pa.Array | pa.ChunkedArray,
        caption: Sequence[str] | pa.Array | pa.ChunkedArray,
        label: Sequence[int] | np.ndarray | None = None,
        classes: Sequence[str] = (),
        keys: Mapping[str, Strings] | None = None,
        *,
        opener: ImageOpener,
    ) -> None:
        if len(image) != len(caption) or (label is not None and len(label) != len(image)):
            raise UsageError(
                f'a table needs an image and a caption for each row, got {len(image)} images, {len(caption)} captions'
                + ('.' if label is None else f' and {len(label)} labels.')
            )
        if not len(image):
            raise UsageError('the table has no usable pair: check the root and the annotation file of the data set.')
        self.image = image if isinstance(image, pa.Array | pa.ChunkedArray) else pa.array(image, pa.string())
        self.caption = caption if isinstance(caption, pa.Array | pa.ChunkedArray) else pa.array(caption, pa.string())
        unknown = np.broadcast_to(np.int32(UNKNOWN), len(image))  # takes no memory
        self.label = unknown if label is None else np.asarray(label, np.int32)
        self.classes, self.keys = tuple(classes), dict(keys or {})
        self.opener = opener

    def __len__(self) -> int:
        return len(self.image)

    def open(self, row: int, min_side: int | None = None) -> Image.Image:
        """Decodes the image of a row to RGB.

        Args:
            row: Number of the row.
            min_side: The caller needs no side longer than this, in pixels; the picture may be decoded at reduced size.

        Raises:
            UnreadableImage: If the image is missing or cannot be decoded.
        """
        return self.opener(self.image[row].as_py(), min_side)

    def captions(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Returns the captions of some rows, in the order of ``rows``."""
        if isinstance(self.caption, pa.Array):
            return self.caption.take(pa.array(rows, pa.int64())).to_pylist()
        return _take_strings(self.caption.chunks, np.asarray(rows, np.int64)).tolist()

    def take(self, rows: np.ndarray) -> PairTable:
        """Returns a table of some rows, renumbered from 0 in the order given."""
        index = pa.array(rows, pa.int64())
        keys = {kind: column.take(index) for kind, column in self.keys.items()}
        image, caption = self.image.take(index), self.caption.take(index)
        return PairTable(image, caption, self.label[rows], self.classes, keys, opener=self.opener)

    def part(self, rows: slice) -> PairTable:
        """Returns consecutive rows, renumbered from 0, without a copy."""
        start, count = rows.start, rows.stop - rows.start
        keys = {kind: column.slice(start, count) for kind, column in self.keys.items()}
        image, caption = self.image.slice(start, count), self.caption.slice(start, count)
        return PairTable(image, caption, self.label[rows], self.classes, keys, opener=self.opener)

    def names(self) -> Strings:
        """What the picture of each row is called in ledgers and lists: its reference, without its place in a shard."""
        name = getattr(self.opener, 'names', None)
        return self.image if name is None else name(self.image)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the pictures' names, captions and labels, in order (16 hexadecimal digits)."""
        digest = hashlib.sha256(str(len(self)).encode())
        names = (self.part(block).names() for block in blocks(len(self)))  # an opener may have to make them
        for parts in (names, [self.caption]):
            digest.update(digest_strings(parts))
        for block in blocks(len(self)):
            digest.update(self.label[block].tobytes())
        return digest.hexdigest()[:16]


def digest_strings(parts: Iterable[Strings]) -> bytes:
    """Hashes the strings of a column that comes in parts, whatever their lengths and chunks, without copying them."""
    lengths, characters = hashlib.sha256(), hashlib.sha256()
    chunks = chain.from_iterable([part] if isinstance(part, pa.Array) else part.chunks for part in parts)
    for chunk in (each.slice(block.start, BLOCK) for each in chunks for block in blocks(len(each))):
        lengths.update(np.asarray(pc.binary_length(chunk), np.int32).tobytes())
        _, offsets, content = chunk.buffers()
        width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
        ends = np.frombuffer(offsets, width, len(chunk) + 1, chunk.offset * np.dtype(width).itemsize)
        if ends[-1] > ends[0]:
            characters.update(memoryview(content)[ends[0] : ends[-1]])
    return lengths.digest() + characters.digest()


def list_strings(column: Strings) -> Iterator[str]:
    """The strings of a column one after the other; only some thousand are Python objects at a time."""
    for block in blocks(len(column)):
        yield from column.slice(block.start, BLOCK).to_pylist()


def _take_strings(chunks: Sequence[pa.Array], rows: np.ndarray) -> np.ndarray:
    """Takes rows from a chunked column; Arrow's own ``take`` would first combine all chunks."""
    starts = np.cumsum([0, *map(len, chunks)])
    chunk = np.searchsorted(starts, rows, 'right') - 1
    strings = np.empty(len(rows), object)
    for number in np.unique(chunk):
        in_chunk = chunk == number
        strings[in_chunk] = chunks[number].take(pa.array(rows[in_chunk] - starts[number])).to_pylist()
    return strings
