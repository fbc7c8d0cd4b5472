"""Labeled images in one folder for each class: ``<class>/*.jpg``, at any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.files.reading import IMAGE_SUFFIXES, clean_captions, read_columns
from datamodules.usage_error import UsageError

NAMES_FILE = 'classes.tsv'


def read_class_names(train: Path) -> dict[str, str]:
    """Maps the folder of each class to the name of the class, in the order of labels.

    Names are those of the folders, with spaces for underscores, or come from ``classes.tsv`` beside ``train``.

    Raises:
        UsageError: If ``train`` has no folder, or ``classes.tsv`` lacks one of them.
    """
    folders = sorted(entry.name for entry in os.scandir(train) if entry.is_dir() and not entry.name.startswith('.'))
    if not folders:
        raise UsageError(f'{str(train)!r} has no class folders: put the images in {train.name}/<class>/.')
    names_file = train.parent / NAMES_FILE
    if not names_file.exists():
        return {folder: clean_captions(pa.array([folder.replace('_', ' ')]))[0].as_py() for folder in folders}
    names = _read_names_file(names_file)
    if unnamed := [folder for folder in folders if folder not in names]:
        raise UsageError(f'{str(names_file)!r} has no line for the folder {unnamed[0]!r}: add one.')
    return names


def _read_names_file(file: Path) -> dict[str, str]:
    """Maps each folder to the first of its names, in the order of the file."""
    table = read_columns(file, '\t', ['folder', 'names'], repr(str(file)), ['folder', 'names'])
    names = [name.split(',')[0].strip() for name in clean_captions(table['names']).to_pylist()]
    if not all(names):
        raise UsageError(f'{str(file)!r} has no name in line {names.index("") + 1}: write <folder><tab><name>.')
    return dict(zip(table['folder'].to_pylist(), names, strict=True))


def list_images_by_class(folder: Path, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Lists the images in a folder of class folders, and their labels.

    Args:
        folder: Folder that contains one folder for each class.
        classes: Class folders, in the order of labels; some may be missing.

    Returns:
        Paths relative to ``folder``, sorted within each class, and the class of each, int64 (N,).

    Raises:
        UsageError: If there is no image, or a folder is not one of the classes.
    """
    folders = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith('.')}
    if unknown := sorted(folders - set(classes)):
        raise UsageError(
            f'{str(folder)!r} has a folder {unknown[0]!r}, which is not a class of the training images: '
            f'rename or remove it.'
        )
    images = [sorted(_walk_images(folder, name)) if name in folders else [] for name in classes]
    label = np.repeat(np.arange(len(classes)), [len(group) for group in images])
    if not len(label):
        raise UsageError(f'{str(folder)!r} has no image in any class folder: put the images in <class>/*.jpg.')
    return [image for group in images for image in group], label


def _walk_images(folder: Path, name: str) -> Iterator[str]:
    """Yields the images of a class at any depth, as in ``<class>/images/0.JPEG``."""
    for path, _, files in os.walk(folder / name):
        relative = Path(path).relative_to(folder).as_posix()
        yield from (f'{relative}/{file}' for file in files if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES)
