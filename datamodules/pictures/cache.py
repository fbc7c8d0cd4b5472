"""Square uint8 pictures, decoded once and memory-mapped from then on, and memory-mapped strings of large tables.

The name of every picture cache contains :func:`datamodules.pictures.identity.identify_pictures` of its table.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.files.array_cache import ArrayKind, stored_arrays
from datamodules.files.arrow_cache import stored_table
from datamodules.files.reading import column
from datamodules.files.workers import end_with_run
from datamodules.pictures.identity import identify_pictures
from datamodules.pictures.images import UnreadableImage
from datamodules.rows.table import PairTable, digest_strings

log = logging.getLogger(__name__)

_MIN_MAPPED_BYTES = 1 << 26  # strings of a smaller table stay in memory


def crop_square(image: Image.Image, size: int) -> np.ndarray:
    """Resizes the shorter side to ``size`` (bicubic) and crops the center, as CLIP does: uint8 (3, size, size)."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


class DecodedPictures(Dataset[tuple[np.ndarray, bool]]):
    """Maps a row to its picture, decoded at every access, and whether it could be read. Unreadable ones are black."""

    def __init__(self, table: PairTable, size: int) -> None:
        self.table, self.size = table, size

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[np.ndarray, bool]:
        picture, mode = self.decode_with_mode(row)
        return picture, mode is not None

    def decode_with_mode(self, row: int) -> tuple[np.ndarray, str | None]:
        """The picture of a row and PIL's mode of the file, such as ``L``; ``None`` if it cannot be read."""
        try:
            image = self.table.open(row, self.size)
        except UnreadableImage:
            return np.zeros((3, self.size, self.size), np.uint8), None
        return crop_square(image, self.size), image.info.get('mode', 'RGB')


class _WithMode(DecodedPictures):
    """Maps a row to its picture and the PIL mode of its file."""

    def __getitem__(self, row: int) -> tuple[np.ndarray, Any]:
        return self.decode_with_mode(row)


Pictures = np.ndarray | DecodedPictures


def read_pictures(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Pictures of some rows, from the cache or decoded now: uint8 (n, 3, size, size)."""
    if isinstance(pictures, DecodedPictures):
        shape = (len(rows), 3, pictures.size, pictures.size)
        decoded = [pictures[int(row)] for row in rows]
        for row, (_, readable) in zip(rows, decoded, strict=True):
            if not readable:
                log.warning('image %s cannot be read and is replaced by black', pictures.table.image[int(row)].as_py())
        return np.array([image for image, _ in decoded], np.uint8).reshape(shape)
    return pictures[rows]


def pictures_name(table: PairTable, size: int) -> str:
    """Name of the cache file for the pictures of a table at one size, without extension."""
    return f'pictures-{identify_pictures(table)}-{size}'


def decode_pictures(table: PairTable, size: int, folder: Path, workers: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Decodes all pictures of a table at one size, once; they are memory-mapped from then on.

    Args:
        table: Pairs whose images to decode.
        size: Side in pixels.
        folder: Folder of the caches.
        workers: Number of decoding processes.

    Returns:
        Pictures, uint8 (N, 3, size, size), and which of them could be read, bool (N,).

    Raises:
        UsageError: If the disk has too little space, or the cache is damaged.
    """

    def fill(arrays: list[np.ndarray]) -> None:
        images, readable = arrays
        loader = DataLoader(
            _WithMode(table, size), batch_size=None, num_workers=workers, collate_fn=_keep, worker_init_fn=end_with_run
        )
        modes: Counter[str] = Counter()
        for row, (image, mode) in enumerate(tqdm(loader, 'decoding', leave=False, disable=len(table) < 20_000)):
            images[row], readable[row] = image, mode is not None
            modes[mode or 'RGB'] += 1
        _warn_of_modes(modes)

    kinds = [ArrayKind((len(table), 3, size, size), np.uint8), ArrayKind((len(table),), bool)]
    images, readable = stored_arrays(folder / f'{pictures_name(table, size)}.npy', kinds, fill)
    warn_unreadable(table, readable)
    return images, readable


def map_strings(table: PairTable, folder: Path) -> PairTable:
    """Moves the strings of a table to a memory-mapped file if they take more than 64 MiB.

    The system frees pages that are not in use, and all processes of a machine share the others.

    Args:
        table: The table as it was read.
        folder: Folder of the caches.
    """
    if table.image.nbytes + table.caption.nbytes < _MIN_MAPPED_BYTES:
        return table
    references = digest_strings(table.image).hex()[:16]  # the fingerprint ignores places in shards
    path = folder / f'pairs-{table.fingerprint}-{references}.arrow'
    strings = stored_table(path, lambda: pa.table({'image': table.image, 'caption': table.caption}))
    image, caption = column(strings, 'image'), column(strings, 'caption')
    return PairTable(image, caption, table.label, table.classes, table.keys, opener=table.opener)


def warn_unreadable(table: PairTable, readable: np.ndarray) -> None:
    """Logs how many pictures cannot be read, and the name of the first."""
    if not readable.all():
        first = table.image[int(np.argmin(readable))].as_py()
        log.warning('%d of %d images cannot be read and are left out; first: %s', (~readable).sum(), len(table), first)


def _warn_of_modes(modes: Counter[str]) -> None:
    """Logs how many pictures of each mode are not RGB."""
    others = {mode: count for mode, count in sorted(modes.items()) if mode != 'RGB'}
    if others:
        kinds = ', '.join(f'{mode} {count}' for mode, count in others.items())
        log.warning('%d of %d images are not RGB and are converted: %s', sum(others.values()), modes.total(), kinds)


def _keep(item: Any) -> Any:
    return item
