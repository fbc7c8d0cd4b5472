"""Small pictures that encode a number in their brightness, and broken ones."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 8


def picture(number: int, kind: str = 'JPEG') -> bytes:
    """Encodes a gray picture with a brightness of twenty times the number; from 13 on, the brightness repeats."""
    file = io.BytesIO()
    Image.new('RGB', (SIDE, SIDE), (20 * (number % 13),) * 3).save(file, kind)
    return file.getvalue()


def number_of(image: Image.Image) -> int:
    """Reads the number of a picture from its brightness."""
    assert image.mode == 'RGB'
    return round(float(np.asarray(image).mean()) / 20)


def write_picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number, 'PNG' if path.suffix == '.png' else 'JPEG'))


def truncated_photo() -> bytes:
    """Returns a photo that is cut off after half of its bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, 'JPEG')
    return file.getvalue()[: len(file.getvalue()) // 2]


def bomb(side: int = 30_000) -> bytes:
    """Returns a valid PNG of about a hundred bytes that claims to have side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', content) + chunk(b'IEND', b'')
