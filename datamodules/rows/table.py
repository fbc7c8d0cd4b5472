"""The table of pairs: one row per image and caption, the same rows on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datamodules.usage_error import UsageError

Origin = Literal['train', 'heldout']  # the table that a picture comes from
UNKNOWN = -1  # label of a pair whose class nobody knows


class ImageOpener(Protocol):
    """Turns the image reference of a row into an RGB picture.

    ``least``: the caller needs no side longer than this; the picture may then be a smaller version of the original, of
    the same shape, with no side shorter than that.

    An opener may also have a method ``identity(references) -> bytes`` that changes whenever the pictures do, see
    :func:`datamodules.pictures.identity.identify_pictures`: it names the caches of the pictures.
    """

    def __call__(self, reference: str, least: int | None = None) -> Image.Image: ...


class PairTable:
    """Image references and captions, held in Arrow: three million rows cost no Python objects.

    A row's number is its identity: position in the sorted source, never reused. Image references are
    strings that the row's opener understands (a path under its root, a place in a tar shard, an index
    into an array), so a table says where images are without touching them.

    Args:
        image: Image reference of each row.
        caption: Caption of each row, white space normalized, never empty.
        label: Ground-truth class of each row as an index into ``classes``; ``UNKNOWN`` where there is none.
        classes: Class names that ``label`` points into.
        opener: Turns a reference into a picture.

    Raises:
        UsageError: If the columns differ in length or there is no row at all.
    """

    def __init__(
        self,
        image: Sequence[str] | pa.Array | pa.ChunkedArray,
        caption: Sequence[str] | pa.Array | pa.ChunkedArray,
        label: Sequence[int] | np.ndarray | None = None,
        classes: Sequence[str] = (),
        *,
        opener: ImageOpener,
    ) -> None:
        if len(image) != len(caption) or (label is not None and len(label) != len(image)):
            raise UsageError(
                f'a table needs one image and one caption a row, got {len(image)} images, {len(caption)} captions'
                + ('.' if label is None else f' and {len(label)} labels.')
            )
        if not len(image):
            raise UsageError('the table has no usable pair: check the root and the annotation file of the data set.')
        self.image = image if isinstance(image, pa.Array | pa.ChunkedArray) else pa.array(image, pa.string())
        self.caption = caption if isinstance(caption, pa.Array | pa.ChunkedArray) else pa.array(caption, pa.string())
        self.label = np.full(len(image), UNKNOWN, np.int32) if label is None else np.asarray(label, np.int32)
        self.classes = tuple(classes)
        self.opener = opener

    def __len__(self) -> int:
        return len(self.image)

    @property
    def keys(self) -> list[pa.Array | pa.ChunkedArray]:
        """Columns of strings by which a list may name a row, the image reference first."""
        return [self.image]

    def open(self, row: int, least: int | None = None) -> Image.Image:
        """Decodes the image of a row, RGB.

        Args:
            row: Which.
            least: See :class:`ImageOpener`.

        Raises:
            UnreadableImage: If that cannot be done.
        """
        return self.opener(self.image[row].as_py(), least)

    def captions(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Captions of some rows, in the order of ``rows``."""
        if isinstance(self.caption, pa.Array):
            return self.caption.take(pa.array(rows, pa.int64())).to_pylist()
        return _taken(self.caption.chunks, np.asarray(rows, np.int64)).tolist()

    def take(self, rows: np.ndarray) -> PairTable:
        """The table of some rows, renumbered from 0 in the order given."""
        index = pa.array(rows, pa.int64())
        return PairTable(
            self.image.take(index), self.caption.take(index), self.label[rows], self.classes, opener=self.opener
        )

    @cached_property
    def fingerprint(self) -> str:
        """Names the content: image references, captions and labels, in order (16 hexadecimal digits)."""
        digest = hashlib.sha256(str(len(self)).encode())
        for column in (self.image, self.caption):
            digest.update(digest_strings(column))
        digest.update(self.label.tobytes())
        return digest.hexdigest()[:16]


def digest_strings(column: pa.Array | pa.ChunkedArray) -> bytes:
    """Names the strings of a column, in order, whatever its chunks; read from Arrow's own memory, without a copy."""
    lengths, letters = hashlib.sha256(), hashlib.sha256()
    for chunk in [column] if isinstance(column, pa.Array) else column.chunks:
        lengths.update(np.asarray(pc.binary_length(chunk), np.int32).tobytes())
        _, places, content = chunk.buffers()
        width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
        ends = np.frombuffer(places, width, len(chunk) + 1, chunk.offset * np.dtype(width).itemsize)
        if ends[-1] > ends[0]:
            letters.update(memoryview(content)[ends[0] : ends[-1]])
    return lengths.digest() + letters.digest()


def _taken(chunks: Sequence[pa.Array], rows: np.ndarray) -> np.ndarray:
    """Strings of some rows of a column in chunks; Arrow's own ``take`` puts all chunks together first."""
    starts = np.cumsum([0, *map(len, chunks)])
    chunk = np.searchsorted(starts, rows, 'right') - 1
    found = np.empty(len(rows), object)
    for number in np.unique(chunk):
        here = chunk == number
        found[here] = chunks[number].take(pa.array(rows[here] - starts[number])).to_pylist()
    return found
