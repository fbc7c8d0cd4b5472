"""The table of pairs: one row per image and caption, the same rows on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from PIL import Image

from datamodules.images import ImageOpener

UNKNOWN = -1  # label of a pair whose class nobody knows


class PairTable:
    """Image references and captions, held in Arrow: three million rows cost no Python objects.

    A row's number is its identity: position in the sorted source, never reused. Image references are
    strings that the row's opener understands (a path under its root, a place in a tar shard, an index
    into an array), so a table says where images are without touching them.

    Args:
        image: Image reference of each row.
        caption: Caption of each row, white space normalised, never empty.
        label: Ground-truth class of each row as an index into ``classes``; ``UNKNOWN`` where there is none.
        classes: Class names that ``label`` points into.
        opener: Turns a reference into a picture.

    Raises:
        ValueError: If the columns differ in length or there is no row at all.
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
            raise ValueError(
                f'a table needs one image and one caption a row, got {len(image)} images, {len(caption)} captions'
                + ('.' if label is None else f' and {len(label)} labels.')
            )
        if not len(image):
            raise ValueError('the table has no usable pair: check the root and the annotation file of the data set.')
        self.image = image if isinstance(image, pa.Array | pa.ChunkedArray) else pa.array(image, pa.string())
        self.caption = caption if isinstance(caption, pa.Array | pa.ChunkedArray) else pa.array(caption, pa.string())
        self.label = np.full(len(image), UNKNOWN, np.int32) if label is None else np.asarray(label, np.int32)
        self.classes = tuple(classes)
        self.opener = opener

    def __len__(self) -> int:
        return len(self.image)

    def open(self, row: int) -> Image.Image:
        """Decodes the image of a row, RGB. Raises ``UnreadableImage`` if that cannot be done."""
        return self.opener(self.image[row].as_py())

    def captions(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Captions of some rows, in the order of ``rows``."""
        return self.caption.take(pa.array(rows, pa.int64())).to_pylist()

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
            for batch in pa.table([column], names=['x']).combine_chunks().to_batches(max_chunksize=65536):
                digest.update('\0'.join(batch.column(0).to_pylist()).encode())
        digest.update(self.label.tobytes())
        return digest.hexdigest()[:16]
