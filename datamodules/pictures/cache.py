"""Square uint8 pictures, decoded once and memory-mapped from then on, and memory-mapped strings of large tables.

The name of every picture cache contains :func:`datamodules.pictures.identity.identify_pictures` of its table.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.files.array_cache import ArrayKind, stored_arrays
from datamodules.files.arrow_cache import stored_table
from datamodules.files.opening import Fault, describe_faults
from datamodules.files.quoting import quote
from datamodules.files.reading import column
from datamodules.files.workers import worker_options
from datamodules.pictures.identity import identify_pictures
from datamodules.pictures.images import UnreadableImage
from datamodules.pictures.stored import StoredPictures, checksums
from datamodules.rows.table import PairTable, digest_strings
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

# Failures that pass or can be repaired without a change to the picture, whose cache would not notice.
_SYSTEM_FAILURES = (
    errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT,
)  # fmt: skip
_FAULTS: tuple[Fault, ...] = get_args(Fault)  # a cache holds their numbers, counted from 1; 0 is a readable picture
_MIN_MAPPED_BYTES = 1 << 26  # strings of a smaller table stay in memory


def crop_square(image: Image.Image, size: int) -> np.ndarray:
    """Resizes the shorter side to ``size`` (bicubic) and crops the center, as CLIP does: uint8 (3, size, size)."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


class Decoded(NamedTuple):
    """A decoded picture.

    Attributes:
        picture: uint8 (3, size, size); black if it could not be read.
        mode: PIL's mode of the file, such as ``L``.
        fault: Why it is black; ``None`` if it could be read.
        failure: Number of the system's error that is the reason, if it is none of the picture's own.
    """

    picture: np.ndarray
    mode: str = 'RGB'
    fault: Fault | None = None
    failure: int | None = None


class DecodedPictures(Dataset[tuple[np.ndarray, bool]]):
    """Maps a row to its picture, decoded at every access, and whether it could be read. Unreadable ones are black."""

    def __init__(self, table: PairTable, size: int) -> None:
        self.table, self.size = table, size

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[np.ndarray, bool]:
        decoded = self.decode(row)
        return decoded.picture, decoded.fault is None

    def decode(self, row: int) -> Decoded:
        """The picture of a row and what is known about it."""
        try:
            image = self.table.open(row, self.size)
        except UnreadableImage as error:
            cause = error.__cause__
            failure = cause.errno if isinstance(cause, OSError) and cause.errno in _SYSTEM_FAILURES else None
            black = np.zeros((3, self.size, self.size), np.uint8)
            return Decoded(black, fault=error.fault, failure=failure)
        return Decoded(crop_square(image, self.size), image.info.get('mode', 'RGB'))


class _Described(DecodedPictures):
    """Maps a row to all that is known about its picture."""

    def __init__(self, pictures: DecodedPictures) -> None:
        super().__init__(pictures.table, pictures.size)

    def __getitem__(self, row: int) -> Any:
        return self.decode(row)


Pictures = np.ndarray | StoredPictures | DecodedPictures


def read_pictures(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Pictures of some rows, from the cache or decoded now: uint8 (n, 3, size, size)."""
    if isinstance(pictures, DecodedPictures):
        shape = (len(rows), 3, pictures.size, pictures.size)
        decoded = [pictures[int(row)] for row in rows]
        for row, (_, readable) in zip(rows, decoded, strict=True):
            if not readable:
                reference = quote(pictures.table.image[int(row)].as_py())
                log.warning('image %s cannot be read and is replaced by black', reference)
        return np.array([image for image, _ in decoded], np.uint8).reshape(shape)
    return pictures[rows]


def pictures_name(table: PairTable, size: int) -> str:
    """Name of the cache file for the pictures of a table at one size, without extension."""
    return f'pictures-{identify_pictures(table)}-{size}'


def decode_pictures(table: PairTable, size: int, folder: Path, workers: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Works like :func:`store_pictures`.

    Returns:
        Pictures, uint8 (N, 3, size, size), and which of them could be read, bool (N,).
    """
    stored = store_pictures(table, size, folder, workers)
    return stored.images, stored.readable


def store_pictures(table: PairTable, size: int, folder: Path, workers: int = 0) -> StoredPictures:
    """Decodes all pictures of a table at one size, once; they are memory-mapped from then on.

    Args:
        table: Pairs whose images to decode.
        size: Side in pixels.
        folder: Folder of the caches.
        workers: Number of decoding processes.

    Raises:
        UsageError: If the disk has too little space, the cache is damaged, or the system fails to read a picture, which
            must not be stored as a fault of the picture.
    """
    decoded = DecodedPictures(table, size)

    def fill(arrays: list[np.ndarray]) -> None:
        images, faults, checksum = arrays
        described = _Described(decoded)
        loader = DataLoader(described, batch_size=None, collate_fn=_keep, **worker_options(workers))
        modes: Counter[str] = Counter()
        for row, item in enumerate(tqdm(loader, 'decoding', leave=False, disable=len(table) < 20_000)):
            _stop_if_the_system_failed(table.image[row].as_py(), item.failure)
            images[row] = item.picture
            faults[row] = 0 if item.fault is None else 1 + _FAULTS.index(item.fault)
            modes[item.mode] += 1
            checksum[row : row + 1] = checksums(images[row : row + 1])
        _warn_of_modes(modes)

    number = (len(table),)
    kinds = [ArrayKind((*number, 3, size, size), np.uint8), ArrayKind(number, np.uint8), ArrayKind(number, np.uint32)]
    path = folder / f'{pictures_name(table, size)}.npy'
    images, faults, checksum = stored_arrays(path, kinds, fill)
    _warn_of_faults(table, faults)
    return StoredPictures(path, images, faults == 0, checksum, partial(read_pictures, decoded))


def map_strings(table: PairTable, folder: Path) -> PairTable:
    """Moves the strings of a table to a memory-mapped file if they take more than 64 MiB.

    The system frees pages that are not in use, and all processes of a machine share the others.

    Args:
        table: The table as it was read.
        folder: Folder of the caches.
    """
    if table.image.nbytes + table.caption.nbytes < _MIN_MAPPED_BYTES:
        return table
    references = digest_strings([table.image]).hex()[:16]  # the fingerprint ignores places in shards
    path = folder / f'pairs-{table.fingerprint}-{references}.arrow'
    strings = stored_table(path, lambda: pa.table({'image': table.image, 'caption': table.caption}))
    image, caption = column(strings, 'image'), column(strings, 'caption')
    return PairTable(image, caption, table.label, table.classes, table.keys, opener=table.opener)


def _warn_of_faults(table: PairTable, faults: np.ndarray) -> None:
    """Logs how many pictures cannot be read, why, and the name of the first."""
    unreadable = np.flatnonzero(faults)
    if len(unreadable):
        reasons = describe_faults(Counter(_FAULTS[number - 1] for number in faults[unreadable]))
        first = quote(table.image[int(unreadable[0])].as_py())
        log.warning(
            '%d of %d images cannot be read and are left out (%s); first: %s',
            len(unreadable), len(table), reasons, first,
        )  # fmt: skip


def _stop_if_the_system_failed(image: str, failure: int | None) -> None:
    if failure is not None:
        raise UsageError(
            f'the system failed to read image {image!r} ({os.strerror(failure)}): repair that and start again, or '
            f'delete the image to leave it out.'
        )


def _warn_of_modes(modes: Counter[str]) -> None:
    """Logs how many pictures of each mode are not RGB."""
    others = {mode: count for mode, count in sorted(modes.items()) if mode != 'RGB'}
    if others:
        kinds = ', '.join(f'{mode} {count}' for mode, count in others.items())
        log.warning('%d of %d images are not RGB and are converted: %s', sum(others.values()), modes.total(), kinds)


def _keep(item: Any) -> Any:
    return item
