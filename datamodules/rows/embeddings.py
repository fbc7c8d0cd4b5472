"""Embeddings that ``predict`` wrote beside a ledger, and rows of them as points in space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.rows.draws import permutation
from datamodules.usage_error import UsageError

Rows = NDArray[np.int64]

IMAGE_FILE, TEXT_FILE = 'image.npy', 'text.npy'  # beside the ledger, a line of which belongs to each of their rows
CHUNK_POINTS = 16_384  # points in memory at once; 34 MB as float32 in 512 dimensions
_COPY_KEY = 0x636F_7079  # key of the choice among copies; any number would do, but it must never change
_CHECKED = 1024  # lines of the ledger whose similarity is compared with that of the embeddings
_ALL_POINTS = slice(None)
_ROUNDING = 0.02  # largest difference of the two; float16 makes 0.001


class Points:
    """Some rows of one or more arrays, side by side; read from disk in small parts and converted to float32.

    Args:
        arrays: Arrays of shape (N, D), memory maps as a rule; the points have all of their columns.
        rows: Rows that are points, int64 (P,); all by default.
    """

    def __init__(self, arrays: Sequence[np.ndarray], rows: Rows | None = None) -> None:
        self.arrays = arrays
        self.rows = np.arange(len(arrays[0])) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """Dimensions of a point."""
        return sum(array.shape[1] for array in self.arrays)

    def take(self, points: Rows) -> Points:
        """Some of the points, by their numbers."""
        return Points(self.arrays, self.rows[points])

    def read(self, points: Rows | slice = _ALL_POINTS) -> NDArray[np.float32]:
        """Coordinates of some of the points, (n, D)."""
        rows = self.rows[points]
        return np.concatenate([array[rows] for array in self.arrays], axis=1, dtype=np.float32)

    def chunks(self, size: int = CHUNK_POINTS) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All points in order, a few at a time, with their numbers."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield part, self.read(part)

    def mean(self) -> NDArray[np.float64]:
        """Mean of all points, (D,)."""
        total = sum((chunk.sum(0, np.float64) for _, chunk in self.chunks()), np.zeros(self.width))
        return np.asarray(total / max(1, len(self)))


def distinct(points: Points) -> tuple[Rows, Rows]:
    """Finds points with the same coordinates, such as copies of a picture.

    Returns:
        A point of each group of copies, any of them, ascending, (G,), and the number of each point's group, (P,).
    """
    digests = (
        hashlib.blake2b(point.tobytes(), digest_size=8).digest() for _, chunk in points.chunks() for point in chunk
    )
    hashes = np.frombuffer(b''.join(digests), np.int64)
    order = permutation(len(points), _COPY_KEY)  # not the first of the copies: poisons are often the last rows
    chosen = np.sort(order[np.unique(hashes[order], return_index=True)[1]])
    by_hash = np.argsort(hashes[chosen])
    return chosen, by_hash[np.searchsorted(hashes[chosen], hashes, sorter=by_hash)]


def read_embeddings(ledger: str, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps the embeddings of pictures and captions that ``predict`` wrote beside a ledger into memory.

    Args:
        ledger: Path of the ledger.
        similarity: Similarity in each of its lines, (N,), NaN where a pair was not scored.

    Returns:
        Embeddings of the pictures and of the captions, (N, D) each, NaN where a pair was not scored.

    Raises:
        UsageError: If they are missing, cannot be read, or are those of other pairs.
    """
    image, text = (_map(ledger, name) for name in (IMAGE_FILE, TEXT_FILE))
    scored = np.flatnonzero(~np.isnan(similarity))
    some = scored[np.linspace(0, len(scored) - 1, min(len(scored), _CHECKED)).astype(np.int64)]
    is_theirs = image.shape == text.shape and len(image) == len(similarity)
    if is_theirs:
        cosine = (image[some].astype(np.float32) * text[some].astype(np.float32)).sum(1)
        is_theirs = bool((np.abs(cosine - similarity[some]) < _ROUNDING).all())
    if not is_theirs:
        raise UsageError(
            f'data.filters: {IMAGE_FILE} and {TEXT_FILE} beside file={ledger!r} are not the embeddings of its pairs: '
            f'write the ledger again with predict and --callbacks.ledger.embeddings=true.'
        )
    return image, text


def _map(ledger: str, name: str) -> np.ndarray:
    path = Path(ledger).with_name(name)
    if not path.is_file():
        raise UsageError(
            f'data.filters: there is no {name} beside file={ledger!r}: write the ledger with predict and '
            f'--callbacks.ledger.embeddings=true.'
        )
    try:
        embeddings = np.load(path, mmap_mode='r')
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        reason = str(error).partition('\n')[0]
        raise UsageError(f'data.filters: {str(path)!r} cannot be read as embeddings ({reason}).') from error
    if not isinstance(embeddings, np.ndarray) or embeddings.ndim != 2 or embeddings.dtype.kind != 'f':
        raise UsageError(f'data.filters: {str(path)!r} holds no embeddings: write the ledger again with predict.')
    return embeddings
