"""Open pictures: files under a folder, members of tar shards, arrays in memory."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from PIL import Image, _imaging

from datamodules.files.confinement import are_inside
from datamodules.files.opening import Fault, fault_of, open_file
from datamodules.files.shard_references import find_place, strip_keys, strip_places
from datamodules.files.shards import ShardFolder
from datamodules.pictures.identity import identify_array, identify_files, identify_samples
from datamodules.pictures.modes import find_mode, to_rgb
from datamodules.rows.table import list_strings

FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM')  # no EPS, for which PIL starts another program
MAX_PIXELS = 50_000_000  # a photo of 7,000 x 7,000; PIL's own limit is 180 million
MAX_FILE_BYTES = 1 << 28  # so many pixels take 200 MB without compression, at 8 bits and with transparency
MAX_JPEG_BYTES = 1 << 26  # PIL joins metadata in time that grows with its square: 10 s for 64 MiB
MAX_PPM_COMMENTS = 100  # in a plain PPM; PIL copies up to a megabyte for each
MAX_JPEG_SCANS = 100  # as in libtiff; each takes a pass over all pixels, usual are ten


class UnreadableImage(ValueError):
    """An image that is missing, truncated, of an unknown format, or far too large to decode.

    Attributes:
        fault: What is wrong with it, in a word or two.
    """

    def __init__(self, message: str, fault: Fault = 'damaged') -> None:
        super().__init__(message)
        self.fault = fault


def decode(data: bytes | BinaryIO, min_side: int | None = None) -> Image.Image:
    """Decodes a picture to RGB, upright. A decompression bomb is rejected by its header, before any pixel is decoded.

    ``info['mode']`` of the result is the mode of the file, such as ``L``, ``CMYK`` or ``RGB;16``.

    Args:
        data: Content of an image file, or the opened file.
        min_side: The caller needs no side longer than this. A JPEG may then be decoded at a half, a quarter or an
            eighth of its size, which drops the frequencies that resizing would drop and halves the work on a photo.

    Raises:
        UnreadableImage: If the picture is damaged, of an unknown format or too large.
    """
    _silence_decoders()
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    with _errors_as_unreadable(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of metadata that PIL cannot read, a line for each picture
        _check_bytes(file)
        with Image.open(file, formats=FORMATS) as image:
            _check_pixels(image, file)
            if min_side is not None:
                image.draft('RGB', (min_side, min_side))
            mode = find_mode(image)
            rgb = to_rgb(image)
            rgb.info['mode'] = mode
            return rgb


def decode_file(path: str | Path, min_side: int | None = None, folder: str | None = None) -> Image.Image:
    """Decodes the picture in a file; see :func:`decode`.

    Args:
        path: The file.
        min_side: As for :func:`decode`.
        folder: Real path of the folder that the file must be in after links are followed; ``None`` for any.

    Raises:
        UnreadableImage: If there is no such file, it is not a regular one or is elsewhere, or as for :func:`decode`.
    """
    with _errors_as_unreadable(), open_file(path, MAX_FILE_BYTES, folder) as file:
        return decode(file, min_side)


def _check_bytes(file: BinaryIO) -> None:
    """Rejects what takes PIL minutes before or after it knows the number of pixels."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    kind = file.read(2)
    if kind == b'\xff\xd8' and size > MAX_JPEG_BYTES:
        raise UnreadableImage(f'a JPEG of {size:,} bytes, over the limit of {MAX_JPEG_BYTES:,}', 'too large')
    if kind in (b'P1', b'P2', b'P3') and (comments := file.read().count(b'#')) > MAX_PPM_COMMENTS:
        raise UnreadableImage(f'{comments:,} comments, over the limit of {MAX_PPM_COMMENTS}', 'too large')


def _check_pixels(image: Image.Image, file: BinaryIO) -> None:
    """Rejects what a small file can make expensive: many pixels, or many passes over them."""
    if image.width * image.height > MAX_PIXELS:
        size = f'{image.width} x {image.height} pixels, over the limit of {MAX_PIXELS:,}'
        raise UnreadableImage(size, 'too large')
    if 'progressive' in image.info:
        file.seek(0)
        if (scans := file.read().count(b'\xff\xda')) > MAX_JPEG_SCANS:
            raise UnreadableImage(f'{scans:,} scans, over the limit of {MAX_JPEG_SCANS}', 'too large')


@contextmanager
def _errors_as_unreadable() -> Iterator[None]:
    """Raises whatever opening or decoding a picture raises as :class:`UnreadableImage`."""
    try:
        yield
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(str(error), 'too large') from error
    except Exception as error:  # PIL's parsers raise anything on a crafted file, struct.error and TypeError included
        raise UnreadableImage(str(error), fault_of(error)) from error


@cache
def _silence_decoders() -> None:
    """Keeps this process from printing what libtiff and PIL say about single pictures, which are counted instead.

    PIL leaves libtiff's own handlers in place, which write to standard error; it raises an exception all the same.
    """
    logging.getLogger('PIL').setLevel(logging.CRITICAL)
    libraries = ctypes.CDLL(_imaging.__file__)
    for function in ('TIFFSetErrorHandler', 'TIFFSetWarningHandler'):
        if hasattr(libraries, function):
            getattr(libraries, function)(None)


class FolderImages:
    """Files under a root; a reference is a path relative to it, so that tables can be used on another machine.

    Args:
        root: Folder that references are relative to.
        folder: Folder that files must be in after links are followed; ``root`` if ``None``.

    Attributes:
        folder: Real path of that folder.
        follow_outside: Whether to open files that are elsewhere too.
    """

    def __init__(self, root: str | Path, folder: str | Path | None = None) -> None:
        self.root, self.follow_outside = Path(root), False
        self.folder = os.path.realpath(root if folder is None else folder)

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        return decode_file(self.root / reference, min_side, None if self.follow_outside else self.folder)

    def read(self, reference: str) -> bytes:
        """Content of a file, as it is.

        Raises:
            UnreadableImage: As for :func:`decode_file`.
        """
        folder = None if self.follow_outside else self.folder
        with _errors_as_unreadable(), open_file(self.root / reference, MAX_FILE_BYTES, folder) as file:
            return file.read()

    def are_inside(self, references: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Tells which references lead to a file inside the folder after links are followed, bool (N,)."""
        return are_inside(self.root, list_strings(references), self.folder)

    def identity(self, references: pa.Array | pa.ChunkedArray) -> bytes:
        """Hashes sizes and modification times of the files, and the content of a few; not the location of the root."""
        return identify_files(self.root, references)


class TarImages:
    """Members of tar shards; a reference is ``<shard>:<key>:<offset>:<size>`` with the shard relative to the root.

    A missing shard is an error, not an unreadable image, because it contains ten thousand pairs.

    Args:
        shards: The shards, or the folder that references are relative to.

    Attributes:
        root: That folder.
    """

    def __init__(self, shards: ShardFolder | str | Path) -> None:
        self.shards = shards if isinstance(shards, ShardFolder) else ShardFolder(shards)
        self.root = self.shards.root

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        size = int(reference.rpartition(':')[2])
        if size > MAX_FILE_BYTES:
            raise UnreadableImage(f'{size:,} bytes, over the limit of {MAX_FILE_BYTES:,}', 'too large')
        return decode(self.read(reference), min_side)

    def read(self, reference: str) -> bytes:
        """Content of a member, as it is."""
        shard, offset, size = find_place(reference)
        with self.shards.open(shard) as file:
            file.seek(offset)
            return file.read(size)

    def identity(self, references: pa.Array | pa.ChunkedArray) -> bytes:
        """Hashes what tells changed shards, and a few members of local ones; not the location of the root.

        Raises:
            FileNotFoundError: If a shard is missing.
        """
        shards = self.shards.identity(strip_keys(references))
        return shards if self.shards.is_remote else shards + identify_samples(references, self.read)

    def names(self, references: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Shard and key of each reference, ``<shard>:<key>``, by which a pair can be found again in any download."""
        return strip_places(references)


class ArrayImages:
    """Pictures in memory, uint8 (N, H, W, 3); a reference is the index as a string."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        return Image.fromarray(self.array[int(reference)])

    def identity(self, references: pa.Array | pa.ChunkedArray) -> bytes:
        """Hashes the pixels."""
        return identify_array(self.array)
