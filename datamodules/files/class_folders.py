"""Labeled images as folders of classes: ``<class>/*.jpg``, however deep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.files.reading import IMAGE_SUFFIXES, cleaned, read_columns
from datamodules.usage_error import UsageError

NAMES = 'classes.tsv'


def class_folders(train: Path) -> dict[str, str]:
    """Folder of each class and the class's name, in the order of labels.

    Raises:
        UsageError: If there is no folder, or a file that names classes leaves one out.
    """
    folders = sorted(entry.name for entry in os.scandir(train) if entry.is_dir() and not entry.name.startswith('.'))
    if not folders:
        raise UsageError(f'{str(train)!r} has no folder for any class: images must lie in {train.name}/<class>/.')
    if not (train.parent / NAMES).exists():
        return {folder: cleaned(pa.array([folder.replace('_', ' ')]))[0].as_py() for folder in folders}
    names = _names(train.parent / NAMES)
    if unnamed := [folder for folder in folders if folder not in names]:
        raise UsageError(f'{str(train.parent / NAMES)!r} has no line for the folder {unnamed[0]!r}: add one.')
    return names


def _names(file: Path) -> dict[str, str]:
    """First name of each class by its folder, in the order of the file."""
    table = read_columns(file, '\t', ['folder', 'names'], repr(str(file)), ['folder', 'names'])
    names = [name.split(',')[0].strip() for name in cleaned(table['names']).to_pylist()]
    if not all(names):
        raise UsageError(f'{str(file)!r} gives no name in line {names.index("") + 1}: write <folder><tab><name>.')
    return dict(zip(table['folder'].to_pylist(), names, strict=True))


def images_by_class(folder: Path, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Images of a folder of classes, relative to it and sorted within each class, and their labels.

    Raises:
        UsageError: If there is no image, or a folder is not of any of the classes.
    """
    there = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith('.')}
    if strange := sorted(there - set(classes)):
        raise UsageError(f'{str(folder)!r} has a folder {strange[0]!r}, which is no class of the training images.')
    images = [sorted(_images_below(folder, name)) if name in there else [] for name in classes]
    label = np.repeat(np.arange(len(classes)), [len(group) for group in images])
    if not len(label):
        raise UsageError(f'{str(folder)!r} has no image in any folder of a class: images must lie in <class>/*.jpg.')
    return [image for group in images for image in group], label


def _images_below(folder: Path, name: str) -> Iterator[str]:
    """Images of a class, however deep, as in ``<class>/images/0.JPEG``."""
    for place, _, files in os.walk(folder / name):
        inside = Path(place).relative_to(folder).as_posix()
        yield from (f'{inside}/{file}' for file in files if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES)
