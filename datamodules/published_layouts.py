"""In which files protected pairs are published: those of Flickr8k, or a CSV with a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np

from datamodules.attacks.pool import translate_labels
from datamodules.export import label_field, write_heldout
from datamodules.files.writers import as_png, write_table, write_token_lines
from datamodules.flickr import SPLIT_LISTS, Flickr
from datamodules.pairs import PairsDataModule
from datamodules.pictures.cache import decode_pictures
from datamodules.rows.table import UNKNOWN, PairTable


class Layout(Protocol):
    """Names of picture files, and the files that tell which caption belongs to which.

    Attributes:
        folder: Folder of the pictures.
    """

    folder: str

    def names(self, rows: np.ndarray) -> list[str]:
        """Names of picture files, all different, by the first row of each."""

    def write(self, temporary: Path, rows: np.ndarray, names: list[str], captions: list[str], heldout: bool) -> None:
        """Writes the captions of some rows, each with the name of its picture, and the held-out pairs if asked."""


class CSVLayout:
    """``images/<row>.png`` and ``train.csv``, with the index of the class if known.

    Held-out pairs are as :func:`datamodules.export.export` writes them.
    """

    folder = 'images'

    def __init__(self, data: PairsDataModule) -> None:
        self.data = data

    def names(self, rows: np.ndarray) -> list[str]:
        return [f'{row}.png' for row in rows]

    def write(self, temporary: Path, rows: np.ndarray, names: list[str], captions: list[str], heldout: bool) -> None:
        table = self.data.table
        labels = translate_labels(table.label[rows], table.classes, self.data.classes)
        columns: list[Iterable[str]] = [names, captions]
        if is_labeled := bool((labels != UNKNOWN).any()):
            columns.append(map(label_field, labels.tolist()))
        named = zip(rows.tolist(), *columns, strict=True)
        write_table(temporary / 'train.csv', named, ['label'] if is_labeled else [])
        if heldout:
            write_heldout(temporary, self.data)


class FlickrLayout:
    """``Images/<photo>.png``, one file of captions, and a list of the photos of each split."""

    folder = 'Images'

    def __init__(self, data: Flickr) -> None:
        self.data = data

    def names(self, rows: np.ndarray) -> list[str]:
        stems = _stems(self.data.table, rows)
        if len(set(stems)) == len(stems):
            return [f'{stem}.png' for stem in stems]
        return [f'{stem}_{row}.png' for stem, row in zip(stems, rows, strict=True)]  # each caption has its own noise

    def write(self, temporary: Path, rows: np.ndarray, names: list[str], captions: list[str], heldout: bool) -> None:
        split = 'train' if self.data.split == 'all' else self.data.split
        splits: dict[str, list[tuple[str, str]]] = {split: list(zip(names, captions, strict=True))}
        if heldout and self.data.heldout is not None:
            heldout_pairs = self._copy_heldout(temporary / self.folder, self.data.heldout, {*names})
            splits[str(self.data.heldout_split)] = heldout_pairs
        write_token_lines(temporary / self.data.token_file, chain.from_iterable(splits.values()))
        for name, pairs in splits.items():
            _write_list(temporary / SPLIT_LISTS[name][0], (image for image, _ in pairs))

    def _copy_heldout(self, temporary: Path, table: PairTable, taken: set[str]) -> list[tuple[str, str]]:
        """Writes held-out pictures, and returns the name of the picture and the caption of each pair."""
        data = self.data
        images, readable = decode_pictures(table, data.stored_size, data.cache_dir, data.num_workers)
        rows = np.flatnonzero(readable)
        names = name_pictures(table.image.take(rows).to_pylist(), taken)
        for name, row in dict(zip(names, rows, strict=True)).items():
            write_new(temporary / name, as_png(images[row]))
        return list(zip(names, table.captions(rows), strict=True))


def layout_of(data: PairsDataModule) -> Layout:
    """The layout in which a data set is published."""
    return FlickrLayout(data) if isinstance(data, Flickr) else CSVLayout(data)


def name_pictures(images: Sequence[str], taken: set[str]) -> list[str]:
    """Names of PNG files after the stems of some image files: equal for equal ones only, and none that is taken.

    Example:
        >>> name_pictures(['a/x.jpg', 'a/x.jpg', 'a/x.png'], taken={'y.png'})
        ['x.png', 'x.png', 'x_.png']
    """
    names: dict[str, str] = {}
    used = set(taken)
    for image in dict.fromkeys(images):
        stem = PurePath(image).stem
        while f'{stem}.png' in used:
            stem += '_'
        names[image] = f'{stem}.png'
        used.add(names[image])
    return [names[image] for image in images]


def write_new(temporary: Path, content: bytes) -> None:
    """Writes a file of a temporary folder, never over another one."""
    with temporary.open('xb') as file:
        file.write(content)


def _stems(table: PairTable, rows: np.ndarray) -> list[str]:
    return [PurePath(table.image[row].as_py()).stem for row in rows.tolist()]


def _write_list(temporary: Path, names: Iterable[str]) -> None:
    temporary.write_text(''.join(f'{name}\n' for name in dict.fromkeys(names)), 'utf-8')
