"""Open pictures: files under a folder, members of tar shards, arrays in memory."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from datamodules.files.shard_references import find_place, strip_keys, strip_places
from datamodules.pictures.identity import identify_array, identify_files, identify_samples

FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM')  # no EPS, for which PIL starts another program
MAX_PIXELS = 50_000_000  # a photo of 7,000 x 7,000; PIL's own limit is 180 million


class UnreadableImage(ValueError):
    """An image that is missing, truncated, of an unknown format, or far too large to decode."""


def decode(data: bytes | Path, min_side: int | None = None) -> Image.Image:
    """Decodes a picture to RGB. A decompression bomb is rejected by its header, before any pixel is decoded.

    ``info['mode']`` of the result is the mode of the file, such as ``L`` or ``CMYK``.

    Args:
        data: Path or content of an image file.
        min_side: The caller needs no side longer than this. A JPEG may then be decoded at a half, a quarter or an
            eighth of its size, which drops the frequencies that resizing would drop and halves the work on a photo.

    Raises:
        UnreadableImage: If the picture is missing, damaged, of an unknown format or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f'{image.width} x {image.height} pixels, over the limit of {MAX_PIXELS:,}')
            if min_side is not None:
                image.draft('RGB', (min_side, min_side))
            rgb = image.convert('RGB')
            rgb.info['mode'] = image.mode
            return rgb
    except UnreadableImage:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(str(error)) from error


class FolderImages:
    """Files under a root; a reference is a path relative to it, so that tables can be used on another machine."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        return decode(self.root / reference, min_side)

    def identity(self, references: pa.Array | pa.ChunkedArray) -> bytes:
        """Hashes sizes and modification times of the files, and the content of a few; not the location of the root."""
        return identify_files(self.root, references)


class TarImages:
    """Members of tar shards; a reference is ``<shard>:<key>:<offset>:<size>`` with the shard relative to the root.

    A missing shard is an error, not an unreadable image, because it contains ten thousand pairs.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        return decode(self._read(reference), min_side)

    def _read(self, reference: str) -> bytes:
        shard, offset, size = find_place(reference)
        with open(self.root / shard, 'rb') as file:
            file.seek(offset)
            return file.read(size)

    def identity(self, references: pa.Array | pa.ChunkedArray) -> bytes:
        """Hashes sizes and modification times of the shards, and a few members; not the location of the root.

        Raises:
            FileNotFoundError: If a shard is missing.
        """
        return identify_files(self.root, strip_keys(references)) + identify_samples(references, self._read)

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
