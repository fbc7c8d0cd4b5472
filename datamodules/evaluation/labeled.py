"""Labeled images to measure zero-shot accuracy on, from folders of classes."""

from __future__ import annotations

import numpy as np

from datamodules.evaluation.sets import EvaluationSet
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


def labeled_set(
    name: str, table: PairTable, images: np.ndarray, readable: np.ndarray, templates: tuple[str, ...]
) -> EvaluationSet:
    """The readable pictures of a labeled table as an evaluation set with the table's own classes.

    Args:
        name: Name of the set in metrics.
        table: Labeled images, see :func:`labeled_folder`.
        images: Their stored pictures, uint8 (N, 3, h, w).
        readable: Which of them could be read, bool (N,).
        templates: Prompts with one ``{}`` each.
    """
    return EvaluationSet(name, lambda: images[readable], table.label[readable], None, table.classes, templates)
