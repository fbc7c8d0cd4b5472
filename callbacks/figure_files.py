"""Writes figures: whole ones, in any script, to a format that the file's name gives."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.files.atomic import write_atomically
from datamodules.usage_error import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path, dpi: int | None = None) -> None:
    """Draws a figure into a file, atomically.

    Args:
        figure: The figure.
        path: The file, ``.png`` or another format that Matplotlib writes. Missing parent folders are created.
        dpi: Dots per inch; Matplotlib's setting if ``None``.

    Raises:
        UsageError: If the file cannot be written, or Matplotlib does not write its format.
    """
    file_format = path.suffix[1:].lower()
    if file_format not in figure.canvas.get_supported_filetypes():
        raise UsageError(f'{path} has no ending of a picture: give a file that ends in .png, .pdf or .svg.')
    with write_atomically(path) as temporary, warnings.catch_warnings():
        # Captions may use a script that the font lacks; its letters are then drawn as boxes, which is good enough.
        warnings.filterwarnings('ignore', r'Glyph .* missing from', UserWarning)
        figure.savefig(temporary, format=file_format, dpi=dpi or 'figure')
