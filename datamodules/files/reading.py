"""Read captions and image folders that other people wrote; none of it is trusted."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.files.quoting import quote
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({'.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'})
# Unicode white space: ASCII's, no-break and ideographic spaces, line and paragraph separators, next line.
_WHITE_SPACE = r'[\s\v\pZ\x{85}]+'
MAX_CAPTION_CHARACTERS = 10_000  # far more than any model's context; a page of text has 3,000


# --- captions -------------------------------------------------------------------------------------------------------


def clean_captions(captions: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    r"""Trims captions, turns every run of white space, line breaks included, into one space, and cuts after 10,000.

    Example:
        >>> clean_captions(pa.array(['  a dog\r\n on the   beach '])).to_pylist()
        ['a dog on the beach']
    """
    clean = pc.utf8_trim(pc.replace_substring_regex(captions, pattern=_WHITE_SPACE, replacement=' '), ' ')
    if (pc.max(pc.binary_length(clean)).as_py() or 0) <= MAX_CAPTION_CHARACTERS:
        return clean
    return pc.utf8_slice_codeunits(clean, 0, MAX_CAPTION_CHARACTERS)


def drop_empty_captions(pairs: pa.Table, source: str) -> pa.Table:
    """Cleans captions, then drops the pairs without one and logs how many there were.

    Args:
        pairs: Table with a column ``caption`` of strings, null where a pair has none.
        source: What was read, as ``data.<argument>=<value>``.

    Returns:
        The pairs that are left, captions cleaned, each column in one chunk as far as Arrow allows.

    Raises:
        UsageError: If no pair is left.
    """
    index = pairs.schema.get_field_index('caption')
    pairs = pairs.set_column(index, 'caption', clean_captions(pairs['caption']))
    kept = pairs.filter(pc.not_equal(pairs['caption'], ''))
    if not len(kept):
        raise UsageError(f'{source} has no usable pair: none of its {len(pairs):,} rows has an image and a caption.')
    if len(kept) < len(pairs):
        log.warning('%s: %d of %d captions are empty and left out', source, len(pairs) - len(kept), len(pairs))
    return kept.combine_chunks()


def column(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """Returns a column; if it has one chunk, as an array, from which rows are taken fast.

    Several chunks stay as they are: combining them would copy what a file has mapped into the memory of each process.
    """
    found = table[name]
    return found.chunk(0) if found.num_chunks == 1 else found


# --- files ----------------------------------------------------------------------------------------------------------


def require_path(path: str | Path, argument: str) -> Path:
    """Returns the path if a file or folder is there.

    Args:
        path: The path.
        argument: Name of the argument that holds it, for the message.

    Raises:
        UsageError: If nothing is there.
    """
    if not os.path.exists(path):  # unlike Path.exists, also false in a folder that must not be entered
        raise UsageError(f'{argument}={str(path)!r} does not exist: name the files of the data set, see docs/data.md.')
    return Path(path)


def require_folder(path: str | Path, argument: str) -> Path:
    """Returns the path if a folder is there; arguments are those of :func:`require_path`.

    Raises:
        UsageError: If nothing is there, or no folder.
    """
    if not (folder := require_path(path, argument)).is_dir():
        raise UsageError(f'{argument}={str(path)!r} is not a folder: name the one that holds the images.')
    return folder


def list_images(folder: Path) -> list[str]:
    """Lists the names of the image files directly in a folder, sorted.

    Raises:
        UsageError: If the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise UsageError(f'{str(folder)!r} cannot be listed: {error.strerror}.') from error
    if unusable := [name for name in names if not is_utf8(name)]:
        log.warning(
            '%s: %d of %d images have names that are not UTF-8 and are left out; first: %s',
            quote(folder), len(unusable), len(names), quote(unusable[0]),
        )  # fmt: skip
    return [name for name in names if is_utf8(name)]


def image_stem(name: str) -> str:
    """Returns the name of an image file without its suffix; any other name as it is.

    Example:
        >>> [image_stem(name) for name in ('a.jpg', 'a.JPG', 'a', 'a.jpg.1')]
        ['a', 'a', 'a', 'a.jpg.1']
    """
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def find_by_name(names: Iterable[str | None], files: Mapping[str, str]) -> list[str | None]:
    """Finds the image file of each name, whose suffix may be missing, in other letters, or that of another format.

    A file that has the name of one image is not taken for another image of the same stem.

    Args:
        names: Names of images; ``None`` where there is none.
        files: What to return for each image file, by its name.

    Returns:
        What ``files`` has for each name; ``None`` without a file.

    Example:
        >>> find_by_name(['a.jpg', 'b.jpg', 'b.png'], {'a.JPG': 'images/a.JPG', 'b.png': 'images/b.png'})
        ['images/a.JPG', None, 'images/b.png']
    """
    names = list(names)
    own = set(names)
    others = [(image_stem(name), file) for name, file in files.items() if name not in own]
    by_stem = dict(reversed(others))  # the first file of a stem counts
    return [(files.get(name) or by_stem.get(image_stem(name))) if name else None for name in names]


def is_utf8(name: str) -> bool:
    """Tells whether a file name is valid UTF-8; bytes that are not are lone surrogates in Python."""
    return name.isascii() or name.encode(errors='replace') == name.encode(errors='surrogateescape')
