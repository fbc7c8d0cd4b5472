"""Pairs from any CSV or TSV with a column of image paths and a column of captions."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.files.file_states import file_states
from datamodules.files.reading import column, drop_empty_captions, require_path
from datamodules.files.text_tables import Layout, describe_names, names_image, read_columns, read_layout
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from datamodules.text.labels import number_labels
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

_IMAGE_COLUMNS = ('filepath', 'image')  # as open_clip and CleanCLIP name them
_CAPTION_COLUMNS = ('title', 'caption')
_PROBED_IMAGES = 10_000  # all over the list; if none exists, the root is wrong
_SHOWN_CHARACTERS = 100


class CSVPairs(PairsDataModule):
    r"""Pairs from a CSV or TSV with a header: one row for each pair, an image path in one column, a caption in another.

    Rows keep the order of the file. The tables of open_clip and CleanCLIP can be read without conversion. Rows that
    cannot be read are left out and counted, see docs/data.md.

    Args:
        train: CSV or TSV of the training pairs, with a header and one row for each pair.
        validation: CSV or TSV of held-out pairs with the same columns. By default nothing is held out.
        root: Folder that image paths are relative to. Defaults to the folder of the file.
        image_column: Column of image paths. Defaults to ``filepath`` (open_clip) or ``image`` (CleanCLIP).
        caption_column: Column of captions. Defaults to ``title`` (open_clip) or ``caption`` (CleanCLIP).
        id_column: Column that says which picture a caption belongs to: rows with one id share the first path that any
            of them has, and the others may leave it empty. By default, rows with one path share a picture.
        label_column: Column of classes, as names or as indices into ``class_names``. Empty fields, NA, nan
            and negative numbers are no class. By default pairs have no class.
        separator: Character between fields. Defaults to that of Excel's line ``sep=;``, else a tab if the header has
            one, else a comma.
        **kwargs: Arguments of :class:`PairsDataModule`.

    Raises:
        UsageError: If the separator is not one character, or a quote or line break.

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
        id_column: str | None = None,
        label_column: str | None = None,
        separator: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if separator is not None and (len(separator) != 1 or separator in '"\r\n\0'):
            raise UsageError(
                f'data.separator={separator!r} must be one character, no quote or line break, or null to take it from '
                f'the header.'
            )
        self.train, self.validation, self.root = train, validation, root
        self.image_column, self.caption_column, self.label_column = image_column, caption_column, label_column
        self.id_column, self.separator = id_column, separator

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
        pairs = drop_empty_captions(self._read_columns(file, read_layout(file, source, self.separator), source), source)
        pairs = _drop_rows_without_path(pairs, source)
        images = FolderImages(file.parent if self.root is None else require_path(self.root, 'data.root'))
        _check_images(pairs, images.root, source)
        _count_repeated(pairs, source)
        if self.label_column is None:
            return PairTable(column(pairs, 'image'), column(pairs, 'caption'), opener=images)
        label, classes = number_labels(pairs['label'], self.class_names, source)
        return PairTable(column(pairs, 'image'), column(pairs, 'caption'), label, classes, opener=images)

    def _read_columns(self, file: Path, layout: Layout, source: str) -> pa.Table:
        """Reads the columns ``image``, ``caption`` and, if pairs have classes, ``label``."""
        image = self.image_column or _find_column(_IMAGE_COLUMNS, 'image', layout.names, source)
        caption = self.caption_column or _find_column(_CAPTION_COLUMNS, 'caption', layout.names, source)
        if image == caption:
            raise UsageError(
                f'{source}: data.image_column and data.caption_column are both {image!r}: set each to one of '
                f'{describe_names(layout.names)}.'
            )
        others = {'label': self.label_column, 'id': self.id_column}
        names = {'image': image, 'caption': caption} | {name: each for name, each in others.items() if each}
        rows = read_columns(file, layout, list(names.values()), source).rename_columns(list(names))
        rows = rows.set_column(0, 'image', pc.utf8_trim_whitespace(rows['image']))
        return share_paths(rows, source) if self.id_column else rows


def _find_column(known: Sequence[str], kind: str, names: Sequence[str], source: str) -> str:
    """Finds the column under one of the names that other projects use."""
    present = [name for wanted in known for name in names if name.lower() == wanted]
    if not present:
        raise UsageError(
            f'{source} has no column {" or ".join(map(repr, known))}: set data.{kind}_column to one of '
            f'{describe_names(names)}, or data.separator if these are several columns in one; a file without a header '
            f'needs one as its first line.'
        )
    return present[0]


def share_paths(rows: pa.Table, source: str) -> pa.Table:
    """Gives each row the first path of its id; a row without an id keeps its own.

    Args:
        rows: Table with the columns ``image``, ``caption`` and ``id``.
        source: What was read, as ``data.<argument>=<value>``.

    Raises:
        UsageError: If a caption has an id that no path has.

    Example:
        >>> rows = pa.table({'id': ['7', '7', ''], 'image': ['', 'a.jpg', 'b.jpg'], 'caption': ['dog', 'pet', 'cat']})
        >>> share_paths(rows, 'data.train')['image'].to_pylist()
        ['a.jpg', 'a.jpg', 'b.jpg']
    """
    own = pc.utf8_trim_whitespace(rows['id'])
    names = pc.if_else(pc.equal(own, ''), rows['image'], own).combine_chunks()
    number = np.asarray(names.dictionary_encode().indices)
    has_path = np.flatnonzero(pc.not_equal(rows['image'], ''))
    first = np.full(len(rows), -1)
    first[number[has_path[::-1]]] = has_path[::-1]  # NumPy keeps the last of several values for one index
    lost = np.flatnonzero((first[number] < 0) & np.asarray(pc.not_equal(rows['caption'], '')))
    if len(lost):
        raise UsageError(
            f'{source}: no row with the id {own[int(lost[0])].as_py()!r} has a path, and {len(lost):,} captions lack '
            f'their picture: give the path in one row of each id.'
        )
    paths = rows['image'].take(pa.array(np.where(first[number] < 0, 0, first[number])))
    return rows.set_column(rows.schema.get_field_index('image'), 'image', paths)


def _drop_rows_without_path(pairs: pa.Table, source: str) -> pa.Table:
    """Drops the rows with an empty path, which would name the folder itself, and logs how many there were."""
    kept = pairs.filter(pc.not_equal(pairs['image'], ''))
    if not len(kept):
        raise UsageError(
            f'{source} has no path in any of its {len(pairs):,} rows with a caption: set data.image_column to the '
            f'column of image paths.'
        )
    if len(kept) < len(pairs):
        log.warning('%s: %d of %d rows have no image path and are left out', source, len(pairs) - len(kept), len(pairs))
    return kept.combine_chunks()


def _check_images(pairs: pa.Table, root: Path, source: str) -> None:
    """Detects a wrong root or column at once instead of after hours of unreadable images.

    Raises:
        UsageError: If none of many images all over the list exists, or most captions are names of images.
    """
    rows = np.unique(np.linspace(0, len(pairs) - 1, _PROBED_IMAGES).astype(np.int64))
    images, captions = (column(pairs, name).take(pa.array(rows)) for name in ('image', 'caption'))
    exist = _share_of_files(root, images) > 0
    first, caption = (texts[0].as_py()[:_SHOWN_CHARACTERS] for texts in (images, captions))
    if not exist:
        _check_spelling(first, source)
    if 2 * sum(map(names_image, captions.to_pylist())) > len(rows) or (
        not exist and _share_of_files(root, captions) > 0.5
    ):
        both = 'set data.image_column and data.caption_column the other way round'
        remedy = 'set data.caption_column to the column of captions' if exist else both
        raise UsageError(f'{source} has names of images where captions should be, such as {caption!r}: {remedy}.')
    if not exist:
        raise UsageError(
            f'{source}: none of its images, {len(rows)} of which were looked for, is under {str(root)!r}, where '
            f'{first!r} should be: set data.root to the folder that paths are relative to.'
        )


def _share_of_files(root: Path, names: pa.Array | pa.ChunkedArray) -> float:
    """Share of the names that are files under a folder."""
    return float((file_states(root, names)[:, 0] >= 0).mean())


def _check_spelling(path: str, source: str) -> None:
    """Detects what no root can turn into a path.

    Raises:
        UsageError: If the path is an address, or has the backslashes of Windows.
    """
    if re.match('https?://', path, re.IGNORECASE):
        raise UsageError(
            f'{source} lists web addresses: download the images, for example with img2dataset, and list the files.'
        )
    if re.match('file:', path, re.IGNORECASE):
        raise UsageError(f'{source} lists addresses of files, such as {path!r}: write paths, without file://.')
    if '\\' in path and os.sep == '/':
        raise UsageError(
            f'{source} has paths with backslashes, such as {path!r}: replace them by slashes, which separate folders '
            f'on this system.'
        )


def _count_repeated(pairs: pa.Table, source: str) -> None:
    repeated = len(pairs) - len(pairs.group_by(['image', 'caption']).aggregate([]))
    if repeated:
        log.warning('%s: %d of %d rows repeat an image with its caption; kept', source, repeated, len(pairs))
