"""The files of pictures as they are, in forms that WebDataset readers decode."""

from __future__ import annotations

import io

from datamodules.rows.table import PairTable

_BEGINNINGS = {b'\xff\xd8\xff': 'jpg', b'\x89PNG\r\n\x1a\n': 'png'}  # of files, by the extensions that readers know
_RIFF, _WEBP = b'RIFF', b'WEBP'  # the first four bytes of a WebP file, and those from the eighth on


def original_file(table: PairTable, row: int) -> tuple[str, bytes]:
    """Extension and content of a picture's file; of other forms than JPEG, PNG and WebP, a PNG of all pixels.

    Raises:
        UnreadableImage: If the picture cannot be read.
    """
    if (read := getattr(table.opener, 'read', None)) is not None:
        content: bytes = read(table.image[row].as_py())
        if extension := _extension(content):
            return extension, content
    file = io.BytesIO()
    table.open(row).save(file, 'PNG')
    return 'png', file.getvalue()


def _extension(content: bytes) -> str | None:
    if content[:4] == _RIFF and content[8:12] == _WEBP:
        return 'webp'
    return next((extension for beginning, extension in _BEGINNINGS.items() if content.startswith(beginning)), None)
