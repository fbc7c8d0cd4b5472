"""Labeled images to measure zero-shot accuracy on, from folders of classes."""

from __future__ import annotations

from datamodules.files.class_folders import class_folders, images_by_class
from datamodules.files.reading import existing
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable


def labeled_folder(folder: str, argument: str) -> PairTable:
    """A folder of classes as a labeled table, each image captioned with the name of its class.

    Raises:
        UsageError: If there is no such folder, or no image in it.
    """
    root = existing(folder, argument)
    names = class_folders(root)
    images, label = images_by_class(root, list(names))
    captions = [list(names.values())[index] for index in label]
    return PairTable(images, captions, label, tuple(names.values()), opener=FolderImages(root))
