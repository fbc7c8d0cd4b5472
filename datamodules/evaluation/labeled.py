"""Labeled images for zero-shot accuracy, read from one folder per class."""

from __future__ import annotations

import numpy as np

from datamodules.evaluation.sets import EvaluationSet
from datamodules.files.class_folders import list_images_by_class, read_class_names
from datamodules.files.reading import require_folder
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable


def read_labeled_folder(folder: str, argument: str) -> PairTable:
    """Reads ``<class>/*.jpg`` as a labeled table; each image is captioned with the name of its class.

    Args:
        folder: Folder that contains one folder of images per class.
        argument: Name of the argument that gave the folder, for messages.

    Raises:
        UsageError: If the folder does not exist or contains no image.
    """
    root = require_folder(folder, argument)
    names = read_class_names(root)
    images, label = list_images_by_class(root, list(names))
    captions = [list(names.values())[index] for index in label]
    return PairTable(images, captions, label, tuple(names.values()), opener=FolderImages(root))


def build_labeled_set(
    name: str, table: PairTable, images: np.ndarray, readable: np.ndarray, templates: tuple[str, ...]
) -> EvaluationSet:
    """Builds an evaluation set from the readable pictures of a labeled table, with the table's own classes.

    Args:
        name: Name of the set in metrics.
        table: Labeled images, as from :func:`read_labeled_folder`.
        images: Stored pictures of the table, uint8 (N, 3, h, w).
        readable: Whether each picture could be read, bool (N,).
        templates: Prompts with one ``{}`` each.
    """
    return EvaluationSet(name, lambda: images[readable], table.label[readable], None, table.classes, templates)
