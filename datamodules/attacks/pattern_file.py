"""Pictures that an attacker brings along."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from datamodules.pictures.images import UnreadableImage, decode
from datamodules.usage_error import UsageError


def pattern_file(path: str, what: str) -> Image.Image:
    """A picture from a file, RGB.

    Args:
        path: Where it is.
        what: Begins the sentence that says so if it cannot be read, as in ``pattern 'cat.png' is``.

    Raises:
        UsageError: If there is no such file, or it is no picture.
    """
    try:
        return decode(Path(path))
    except UnreadableImage as error:
        raise UsageError(
            f'{what} no picture that can be read ({error}): give the path of a JPEG or PNG file.'
        ) from error
