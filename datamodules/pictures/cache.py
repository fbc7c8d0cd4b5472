"""What is made once and memory-mapped from then on: pictures, uint8 and square, and the strings of large tables."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.files.reading import column, stored_table
from datamodules.pictures.images import UnreadableImage
from datamodules.rows.table import PairTable

log = logging.getLogger(__name__)

_LARGE = 1 << 26  # bytes of strings that are better off in a file


def square(image: Image.Image, size: int) -> np.ndarray:
    """Shorter side to ``size``, bicubic, center cropped, as CLIP's own transform: uint8 (3, size, size)."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


class Decoded(Dataset[tuple[np.ndarray, bool]]):
    """Row -> picture and whether it could be read; a picture that could not is black."""

    def __init__(self, table: PairTable, size: int) -> None:
        self.table, self.size = table, size

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[np.ndarray, bool]:
        picture, mode = self.with_mode(row)
        return picture, mode is not None

    def with_mode(self, row: int) -> tuple[np.ndarray, str | None]:
        """The picture of a row and the kind of pixels in its file, as PIL calls it; ``None`` if it cannot be read."""
        try:
            image = self.table.open(row, self.size)
        except UnreadableImage:
            return np.zeros((3, self.size, self.size), np.uint8), None
        return square(image, self.size), image.info.get('mode', 'RGB')


class _WithMode(Decoded):
    """Pictures with the kind of pixels in their file."""

    def __getitem__(self, row: int) -> tuple[np.ndarray, Any]:
        return self.with_mode(row)


Pictures = np.ndarray | Decoded


def read(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Some pictures, from the cache or by decoding them now: uint8 (n, 3, size, size)."""
    if isinstance(pictures, Decoded):
        shape = (len(rows), 3, pictures.size, pictures.size)
        decoded = [pictures[int(row)] for row in rows]
        for row, (_, readable) in zip(rows, decoded, strict=True):
            if not readable:
                log.warning('image %s cannot be read and is taken as black', pictures.table.image[int(row)].as_py())
        return np.array([image for image, _ in decoded], np.uint8).reshape(shape)
    return pictures[rows]


def stored_array(path: Path, shape: tuple[int, ...], dtype: type, fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """A memory-mapped array that is made once; a run killed meanwhile leaves no half of it under that name.

    Args:
        path: Where the array lies, ending in ``.npy``; its name must determine its content.
        shape: Its shape.
        dtype: Its type.
        fill: Writes the content in place.

    Returns:
        The array, read-only.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f'.{uuid.uuid4().hex}.tmp')  # machines that share a disk may share process ids
        try:
            array = np.lib.format.open_memmap(unfinished, 'w+', dtype, shape)
            fill(array)
            array.flush()
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)  # gone already unless something failed
    return np.load(path, mmap_mode='r')


def pictures_name(table: PairTable, size: int) -> str:
    """Names the pictures of a table at one size."""
    # Two folders may hold the same names and captions in two resolutions: the place is part of the name.
    place = hashlib.sha256(str(getattr(table.opener, 'root', '')).encode()).hexdigest()[:8]
    return f'{table.fingerprint}-{place}-{size}'


def decoded_images(table: PairTable, size: int, folder: Path, workers: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of a table at one size, from the cache or into it.

    Args:
        table: Pairs whose images to decode.
        size: Side in pixels.
        folder: Where caches lie.
        workers: Processes that decode.

    Returns:
        Pictures, uint8 (N, 3, size, size), and which of them could be read, bool (N,).
    """
    stem = folder / pictures_name(table, size)
    readable = np.ones(len(table), bool)

    def fill(images: np.ndarray) -> None:
        loader = DataLoader(_WithMode(table, size), batch_size=None, num_workers=workers, collate_fn=_as_is)
        modes: Counter[str] = Counter()
        for row, (image, mode) in enumerate(tqdm(loader, 'decoding', leave=False, disable=len(table) < 20_000)):
            images[row], readable[row] = image, mode is not None
            modes[mode or 'RGB'] += 1
        np.save(readable_path, readable)
        _tell_modes(modes)

    readable_path = stem.with_suffix('.readable.npy')
    images = stored_array(stem.with_suffix('.npy'), (len(table), 3, size, size), np.uint8, fill)
    readable = np.load(readable_path)
    warn_unreadable(table, readable)
    return images, readable


def mapped_table(table: PairTable, folder: Path) -> PairTable:
    """A table whose strings, if there are many, lie in a file that is mapped into memory.

    The system drops what is not in use, and all processes of a machine share the rest.

    Args:
        table: The table as it was read.
        folder: Where caches lie.
    """
    if table.image.nbytes + table.caption.nbytes < _LARGE:
        return table
    path = folder / f'{table.fingerprint}.arrow'
    strings = stored_table(path, lambda: pa.table({'image': table.image, 'caption': table.caption}))
    return PairTable(
        column(strings, 'image'), column(strings, 'caption'), table.label, table.classes, opener=table.opener
    )


def warn_unreadable(table: PairTable, readable: np.ndarray) -> None:
    """Counts the pictures that could not be read, and names the first."""
    if not readable.all():
        first = table.image[int(np.argmin(readable))].as_py()
        log.warning('%d of %d images cannot be read and are left out; first: %s', (~readable).sum(), len(table), first)


def _tell_modes(modes: Counter[str]) -> None:
    """Counts the pictures that are not in colors of red, green and blue, once, when they are decoded."""
    others = {mode: count for mode, count in sorted(modes.items()) if mode != 'RGB'}
    if others:
        kinds = ', '.join(f'{mode} {count}' for mode, count in others.items())
        log.warning('%d of %d images are not RGB and are converted: %s', sum(others.values()), modes.total(), kinds)


def _as_is(item: Any) -> Any:
    return item
