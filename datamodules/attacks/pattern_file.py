"""Reads the picture of a trigger from a file."""

from __future__ import annotations

from PIL import Image

from datamodules.pictures.images import UnreadableImage, decode_file
from datamodules.usage_error import UsageError


def read_pattern(path: str, what: str) -> Image.Image:
    """Reads a picture from a file, as RGB.

    Args:
        path: Path of the file.
        what: Beginning of the message if it cannot be read, such as ``pattern 'cat.png' is``.

    Raises:
        UsageError: If there is no such file, or it is not a picture.
    """
    try:
        return decode_file(path)
    except UnreadableImage as error:
        raise UsageError(f'{what} not a readable picture ({error}): give the path of a JPEG or PNG file.') from error
