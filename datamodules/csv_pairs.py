"""Pairs from any CSV or TSV with a column of image paths and a column of captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.files.reading import column, drop_empty_captions, read_columns, read_first_line, require_path
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from datamodules.text.labels import number_labels
from datamodules.usage_error import UsageError

_IMAGE_COLUMNS = ('filepath', 'image')  # as open_clip and CleanCLIP name them
_CAPTION_COLUMNS = ('title', 'caption')
_PROBED_IMAGES = 100  # at the start; if none exists, the root is wrong


class CSVPairs(PairsDataModule):
    r"""Pairs from a CSV or TSV with a header: one row for each pair, an image path in one column, a caption in another.

    Rows keep the order of the file. The tables of open_clip and CleanCLIP can be read without conversion.

    Args:
        train: CSV or TSV of the training pairs, with a header and one row for each pair.
        validation: CSV or TSV of held-out pairs with the same columns. By default nothing is held out.
        root: Folder that image paths are relative to. Defaults to the folder of the file.
        image_column: Column of image paths. Defaults to ``filepath`` (open_clip) or ``image`` (CleanCLIP).
        caption_column: Column of captions. Defaults to ``title`` (open_clip) or ``caption`` (CleanCLIP).
        label_column: Column of classes, as names or as indices into ``class_names``; a field may be empty. By default
            pairs have no class.
        separator: Character between fields. Defaults to a tab if the header contains one, else a comma.
        **kwargs: Arguments of :class:`PairsDataModule`.

    Raises:
        UsageError: If the separator is not one character.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> Image.new('RGB', (8, 8)).save('dog.png')
        >>> lines = ['image,caption,class', 'dog.png,a dog on the beach,dog']
        >>> _ = Path('pairs.csv').write_text('\n'.join(lines))
        >>> table = CSVPairs('pairs.csv', label_column='class').load_table()
        >>> table.captions([0]), table.classes
        (['a dog on the beach'], ('dog',))
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
            raise UsageError(f'data.separator={separator!r} must be one character, or null to take it from the header.')
        self.train, self.validation, self.root = train, validation, root
        self.image_column, self.caption_column, self.label_column = image_column, caption_column, label_column
        self.separator = separator

    def load_table(self) -> PairTable:
        """Reads the training pairs, in the order of the file."""
        return self._read(self.train, 'data.train')

    def load_heldout(self) -> PairTable | None:
        """Reads the held-out pairs, if ``validation`` names a file."""
        return None if self.validation is None else self._read(self.validation, 'data.validation')

    def _read(self, path: str, argument: str) -> PairTable:
        file, source = require_path(path, argument), f'{argument}={path!r}'
        if file.is_dir():
            raise UsageError(f'{source} is a folder: name the CSV or TSV in it.')
        separator = self.separator or ('\t' if len(read_first_line(file, '\t', source)) > 1 else ',')
        pairs = drop_empty_captions(self._read_columns(file, separator, source), source)
        images = FolderImages(file.parent if self.root is None else require_path(self.root, 'data.root'))
        _check_images(column(pairs, 'image'), images.root, source)
        if self.label_column is None:
            return PairTable(column(pairs, 'image'), column(pairs, 'caption'), opener=images)
        label, classes = number_labels(pairs['label'], self.class_names, source)
        return PairTable(column(pairs, 'image'), column(pairs, 'caption'), label, classes, opener=images)

    def _read_columns(self, file: Path, separator: str, source: str) -> pa.Table:
        """Reads the columns ``image``, ``caption`` and, if pairs have classes, ``label``."""
        header = read_first_line(file, separator, source)
        image = self.image_column or _find_column(_IMAGE_COLUMNS, 'image', header, source)
        caption = self.caption_column or _find_column(_CAPTION_COLUMNS, 'caption', header, source)
        names = {'image': image, 'caption': caption} | ({'label': self.label_column} if self.label_column else {})
        return read_columns(file, separator, list(names.values()), source).rename_columns(list(names))


def _find_column(known: Sequence[str], kind: str, header: list[str], source: str) -> str:
    """Finds the column under one of the names that other projects use."""
    if not (present := [name for name in known if name in header]):
        raise UsageError(
            f'{source} has no column {" or ".join(map(repr, known))}: set data.{kind}_column to one of '
            f'{", ".join(map(repr, header))}, or data.separator if these are several columns in one.'
        )
    return present[0]


def _check_images(images: pa.Array | pa.ChunkedArray, root: Path, source: str) -> None:
    """Detects a wrong root at once instead of after hours of unreadable images.

    Raises:
        UsageError: If the images are web addresses, or none of the first ones exists.
    """
    first = [image.as_py() for image in islice(images, _PROBED_IMAGES)]
    if re.match('https?://', first[0]):
        raise UsageError(
            f'{source} lists web addresses: download the images, for example with img2dataset, and list the files.'
        )
    if not any((root / image).is_file() for image in first):
        raise UsageError(
            f'{source}: none of its first {len(first)} images is under {str(root)!r}, where {first[0]!r} should be: '
            f'set data.root to the folder that paths are relative to.'
        )
