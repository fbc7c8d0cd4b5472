"""Labeled images in one folder for each class: ``<class>/*.jpg``, at any depth."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.files.left_behind import is_left_behind
from datamodules.files.left_out import LeftOut
from datamodules.files.quoting import quote
from datamodules.files.reading import IMAGE_SUFFIXES, clean_captions
from datamodules.files.text_tables import Layout, read_columns
from datamodules.usage_error import UsageError

NAMES_FILE = 'classes.tsv'
_NO_LETTERS = re.compile(r'[_\x00-\x1f\x7f-\x9f]')  # underscores and control characters: spaces in a class's name


# --- names of classes -----------------------------------------------------------------------------------------------


def read_class_names(train: Path) -> dict[str, str]:
    """Maps the folder of each class to the name of the class, in the order of labels.

    Names are those of the folders, with spaces for underscores, or come from ``classes.tsv`` beside ``train``.

    Raises:
        UsageError: If ``train`` has no folder, two folders have one name or a folder has none, or ``classes.tsv`` lacks
            one of them.
    """
    folders = _list_folders(train, LeftOut(''))
    if not folders:
        raise UsageError(f'{str(train)!r} has no class folders: put the images in {train.name}/<class>/.')
    names_file = train.parent / NAMES_FILE
    if not names_file.exists():
        return _name_folders(folders, train)
    names = _read_names_file(names_file)
    listed = set(map(_compose, names))
    if unnamed := [folder for folder in folders if _compose(folder) not in listed]:
        raise UsageError(f'{str(names_file)!r} has no line for the folder {unnamed[0]!r}: add one.')
    return names


def _name_folders(folders: Sequence[str], train: Path) -> dict[str, str]:
    names = clean_captions(pa.array([_NO_LETTERS.sub(' ', folder) for folder in folders], pa.string())).to_pylist()
    first_folder: dict[str, str] = {}
    for folder, name in zip(folders, names, strict=True):
        if not name:
            raise UsageError(f'{str(train)!r} has a folder {folder!r}, which names no class: rename it.')
        first = first_folder.setdefault(_compose(name).casefold(), folder)
        if first != folder:
            raise UsageError(
                f'{str(train)!r} has two folders of one class, {first!r} and {folder!r}: merge them, or give each a '
                f'name in {NAMES_FILE}.'
            )
    return dict(zip(folders, names, strict=True))


def _compose(name: str) -> str:
    """Returns the form of a name in which an accented letter is one character, whatever system it was written on."""
    return unicodedata.normalize('NFC', name)


def _read_names_file(file: Path) -> dict[str, str]:
    """Maps each folder to the first of its names, in the order of the file."""
    columns = ['folder', 'names']
    table = read_columns(file, Layout('\t', columns, quoted=False), columns, repr(str(file)))
    folders = table['folder'].to_pylist()
    names = [name.split(',')[0].strip() for name in clean_captions(table['names']).to_pylist()]
    if not all(names):
        raise UsageError(f'{str(file)!r} has no name in line {names.index("") + 1}: write <folder><tab><name>.')
    if repeated := next((folder for place, folder in enumerate(folders) if folder in folders[:place]), None):
        raise UsageError(f'{str(file)!r} has two lines for the folder {repeated!r}: remove one.')
    return dict(zip(folders, names, strict=True))


# --- images ---------------------------------------------------------------------------------------------------------


def list_images_by_class(folder: Path, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Lists the images in a folder of class folders, and their labels, and logs what is left out.

    Args:
        folder: Folder that contains one folder for each class.
        classes: Class folders, in the order of labels; some may be missing.

    Returns:
        Paths relative to ``folder``, sorted within each class, and the class of each, int64 (N,).

    Raises:
        UsageError: If there is no image, or a folder is not one of the classes.
    """
    left_out = LeftOut('images and folders')
    label_of = {name: label for form in (_compose, str) for label, name in enumerate(map(form, classes))}
    folders = {name: label_of.get(name, label_of.get(_compose(name), -1)) for name in _list_folders(folder, left_out)}
    if unknown := [name for name, index in folders.items() if index < 0]:
        raise UsageError(
            f'{str(folder)!r} has a folder {unknown[0]!r}, which is not a class of the training images: '
            f'rename or remove it.'
        )
    images: list[list[str]] = [[] for _ in classes]
    for name, index in folders.items():
        images[index] += _walk_images(folder, name, left_out)
    label = np.repeat(np.arange(len(classes)), [len(group) for group in images])
    left_out.log(quote(folder), len(label) + len(left_out))
    if not len(label):
        raise UsageError(f'{str(folder)!r} has no image in any class folder: put the images in <class>/*.jpg.')
    return [image for group in images for image in sorted(group)], label


def _list_folders(root: Path, left_out: LeftOut) -> list[str]:
    """Lists the folders of classes, sorted."""
    try:
        with os.scandir(root) as entries:
            folders = {entry.name: _leads_back(entry, root) for entry in entries if _is_folder(entry)}
    except OSError as error:
        raise UsageError(f'{str(root)!r} cannot be listed: {error.strerror}.') from error
    for name, leads_back in folders.items():
        if leads_back:
            left_out.add('are links to a folder that they are in', quote(name))
    return sorted(name for name, leads_back in folders.items() if not leads_back and _is_usable(name, name, left_out))


def _leads_back(entry: os.DirEntry[str], root: Path) -> bool:
    """Tells whether an entry is a link to its own folder or to one around it, in which a walk would meet itself."""
    if not entry.is_symlink():
        return False
    real_root, real = (os.path.join(os.path.realpath(path), '') for path in (root, entry.path))
    return real_root.startswith(real)


def _walk_images(root: Path, folder: str, left_out: LeftOut) -> Iterator[str]:
    """Yields the images of a class at any depth, as in ``<class>/images/0.JPEG``."""
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(root / parent) as found:
                entries = [entry for entry in found if _is_folder(entry) or _is_image(entry.name)]
        except OSError:
            left_out.add('cannot be read', quote(parent))
            continue
        for entry in entries:
            path = f'{parent}/{entry.name}'
            if not _is_usable(entry.name, path, left_out):
                continue
            if not _is_folder(entry):
                yield path
            elif entry.is_symlink():
                left_out.add('are links to folders', quote(path))
            else:
                waiting.append(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_usable(name: str, path: str, left_out: LeftOut) -> bool:
    """Counts names that systems leave behind, and names that no list could hold."""
    if is_left_behind(name):
        left_out.add('are hidden or left behind by a system', quote(path))
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        left_out.add('have a name that is not UTF-8', quote(path))
        return False
    return True
