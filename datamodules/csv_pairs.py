"""Pairs from any CSV or TSV with a column of image files and a column of captions."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.files.reading import column, existing, first_line, read_columns, usable
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from datamodules.text.labels import numbered
from datamodules.usage_error import UsageError

_PUBLISHED = {'filepath': 'title', 'image': 'caption'}  # columns of open_clip and of CleanCLIP
_LOOKED_FOR = 100  # images; if none of so many exists, the root is wrong


class CSVPairs(PairsDataModule):
    """Pairs from a CSV or TSV with a header, in its own order.

    Args:
        train: File with a row for each training pair.
        validation: File with held-out pairs, its columns named alike.
        root: Folder that image paths are relative to; that of the file itself if ``None``.
        image_column: Column of image paths; ``filepath`` (open_clip) or ``image`` (CleanCLIP) if ``None``.
        caption_column: Column of captions; ``title`` (open_clip) or ``caption`` (CleanCLIP) if ``None``.
        label_column: Column of classes, each a name or an index into ``class_names``; may be empty in places.
        separator: Character between fields; a tab if the header holds one, else a comma, if ``None``.
        **kwargs: As for :class:`PairsDataModule`.

    Raises:
        UsageError: If the separator is not one character.
    """

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        root: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        label_column: str | None = None,
        separator: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if separator is not None and len(separator) != 1:
            raise UsageError(f'data.separator={separator!r} must be one character, or null to go by the header.')
        self.train, self.validation, self.root = train, validation, root
        self.image_column, self.caption_column, self.label_column = image_column, caption_column, label_column
        self.separator = separator

    def load_table(self) -> PairTable:
        """The training pairs, in the order of the file."""
        return self._read(self.train, 'data.train')

    def load_heldout(self) -> PairTable | None:
        """The held-out pairs, if a file was named."""
        return None if self.validation is None else self._read(self.validation, 'data.validation')

    def _read(self, path: str, argument: str) -> PairTable:
        file, source = existing(path, argument), f'{argument}={path!r}'
        if file.is_dir():
            raise UsageError(f'{source} is a folder: name the CSV or TSV in it.')
        separator = self.separator or ('\t' if len(first_line(file, '\t', source)) > 1 else ',')
        pairs = usable(self._columns(file, separator, source), source)
        images = FolderImages(file.parent if self.root is None else existing(self.root, 'data.root'))
        _check_images(column(pairs, 'image'), images.root, source)
        if self.label_column is None:
            return PairTable(column(pairs, 'image'), column(pairs, 'caption'), opener=images)
        label, classes = numbered(pairs['label'], self.class_names, source)
        return PairTable(column(pairs, 'image'), column(pairs, 'caption'), label, classes, opener=images)

    def _columns(self, file: Path, separator: str, source: str) -> pa.Table:
        """Columns ``image``, ``caption`` and, if there are labels, ``label``."""
        there = first_line(file, separator, source)
        image = self.image_column or _published(list(_PUBLISHED), 'image', there, source)
        caption = self.caption_column or _published(list(_PUBLISHED.values()), 'caption', there, source)
        names = {'image': image, 'caption': caption} | ({'label': self.label_column} if self.label_column else {})
        return read_columns(file, separator, list(names.values()), source).rename_columns(list(names))


def _published(known: list[str], kind: str, there: list[str], source: str) -> str:
    """The column that is named as others name it."""
    if not (found := [name for name in known if name in there]):
        raise UsageError(
            f'{source} has no column {" or ".join(map(repr, known))}: set data.{kind}_column to one of '
            f'{", ".join(map(repr, there))}, or data.separator if they are not told apart.'
        )
    return found[0]


def _check_images(images: pa.Array | pa.ChunkedArray, root: Path, source: str) -> None:
    """Finds a wrong root now, not after hours of unreadable images.

    Raises:
        UsageError: If images are addresses in the web, or none of the first is there.
    """
    first = [image.as_py() for image in islice(images, _LOOKED_FOR)]
    if re.match('https?://', first[0]):
        raise UsageError(f'{source} names images in the web: download them, as with img2dataset, and name the files.')
    if not any((root / image).is_file() for image in first):
        raise UsageError(
            f'{source}: none of its first {len(first)} images is under {str(root)!r}, where {first[0]!r} should be: '
            f'set data.root to the folder that paths are relative to.'
        )
