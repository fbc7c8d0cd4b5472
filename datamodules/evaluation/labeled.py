"""Labeled pictures to measure a model on, read from folders of classes, with a training split for probes or without."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.evaluation.sets import EvaluationSet, Metric
from datamodules.files.class_folders import list_images_by_class, read_class_names
from datamodules.files.reading import require_folder, require_path
from datamodules.pictures.confined import leave_out_outside
from datamodules.pictures.images import FolderImages
from datamodules.rows.subsets import balanced_rows
from datamodules.rows.table import UNKNOWN, PairTable
from datamodules.text.prompts import check_class_names, check_templates
from datamodules.usage_error import UsageError, check_number

Decode = Callable[[PairTable], tuple[np.ndarray, np.ndarray]]
_DRAW_SEED = 0  # of training pictures, so that every model is probed on the same ones


class Splits(NamedTuple):
    """What a labeled set is read as.

    Attributes:
        test: Pictures to measure on.
        train: Reads the pictures that a probe is trained on; ``None`` if there are none.
    """

    test: PairTable
    train: Callable[[], PairTable] | None


class LabeledSet(ABC):
    """Labeled pictures of a data set, to be named in ``data.labeled``.

    Args:
        metric: What is reported: ``accuracy``, the share of right answers over all pictures, or ``mean_per_class``, the
            mean of the shares of the classes.
        prompts: JSON file with a list ``classes``, names in the order of the labels, a list ``templates`` with ``{}``
            in each, or both. By default names are those of the set, and templates ``data.templates``.
    """

    def __init__(self, metric: Metric = 'accuracy', prompts: str | None = None) -> None:
        self.metric, self.prompts = metric, prompts

    @abstractmethod
    def read(self, argument: str) -> Splits:
        """Reads the set; both splits have the same classes.

        Args:
            argument: Name of the set among the arguments, for messages.

        Raises:
            UsageError: If a split is missing, or a class.
        """


class FolderOfClasses(LabeledSet):
    """``<class>/*.jpg`` without a training split; also what a mere path in ``data.labeled`` stands for.

    Args:
        root: Folder that contains one folder of images for each class.
        **kwargs: Arguments of :class:`LabeledSet`.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def read(self, argument: str) -> Splits:
        return Splits(read_labeled_folder(self.root, argument), None)


class ClassFolders(LabeledSet):
    """``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, or ``val`` in place of ``test``, as ImageNet is stored.

    Classes are named by their folders, or by ``classes.tsv`` beside them as for :class:`CaptionedImages`.

    Args:
        root: Folder that contains ``train`` and ``test`` or ``val``.
        train_per_class: Training pictures to draw of each class; by default a probe is trained on all.
        **kwargs: Arguments of :class:`LabeledSet`.
    """

    def __init__(self, root: str, train_per_class: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number('data.labeled: train_per_class', train_per_class, '[1, inf)')
        self.root, self.train_per_class = root, train_per_class

    def read(self, argument: str) -> Splits:
        train, test = find_splits(self.root, f'{argument}.root')
        names = read_class_names(train)
        return Splits(read_whole_split(test, names), lambda: self._draw(read_whole_split(train, names)))

    def _draw(self, table: PairTable) -> PairTable:
        return table if self.train_per_class is None else table.take(rows_per_class(table.label, self.train_per_class))


def read_labeled_folder(folder: str, argument: str) -> PairTable:
    """Reads ``<class>/*.jpg`` as a labeled table; each image is captioned with the name of its class.

    Args:
        folder: Folder that contains one folder of images per class.
        argument: Name of the argument that gave the folder, for messages.

    Raises:
        UsageError: If the folder does not exist or contains no image.
    """
    root = require_folder(folder, argument)
    return read_split(root, read_class_names(root))


def find_splits(root: str, argument: str) -> tuple[Path, Path]:
    """The folders of a training and a test split, of which the latter may be called ``val``.

    Raises:
        UsageError: If one is missing.
    """
    folder = require_folder(root, argument)
    train = folder / 'train'
    test = next((folder / name for name in ('test', 'val') if (folder / name).is_dir()), None)
    if test is None or not train.is_dir():
        missing = 'test or val' if test is None else 'train'
        raise UsageError(
            f'{argument}={root!r} has no folder {missing}: put <class>/*.jpg into it, or give a FolderOfClasses, which '
            f'needs no splits, if no probe is to be trained.'
        )
    return train, test


def read_split(folder: Path, names: Mapping[str, str]) -> PairTable:
    """Reads the images of a split as a labeled table.

    Args:
        folder: Folder of the split.
        names: Name of each class by its folder, in the order of labels.

    Raises:
        UsageError: If there is no image, or a folder of another class.
    """
    images, label = list_images_by_class(folder, list(names))
    return labeled_table(images, label, list(names.values()), FolderImages(folder))


def read_whole_split(folder: Path, names: Mapping[str, str]) -> PairTable:
    """Works like :func:`read_split`, and also refuses a split that lacks a class."""
    table = read_split(folder, names)
    if missing := sorted(set(range(len(names))) - set(table.label.tolist())):
        raise UsageError(
            f'{str(folder)!r} has images of {len(names) - len(missing)} of the {len(names)} classes, and none of '
            f'{list(names)[missing[0]]!r}: complete it.'
        )
    return table


def labeled_table(images: Sequence[str], label: np.ndarray, classes: Sequence[str], opener: Any) -> PairTable:
    """A table of images that are captioned with the names of their classes."""
    return PairTable(images, [classes[index] for index in label], label, classes, opener=opener)


def rows_per_class(label: np.ndarray, count: int) -> np.ndarray:
    """Draws at most ``count`` images of each class, the same ones every time: ascending rows, int64."""
    return balanced_rows(label, int(np.minimum(np.bincount(label), count).sum()), _DRAW_SEED)


def build_labeled_set(
    name: str, labeled: LabeledSet, decode: Decode, templates: tuple[str, ...], follow_outside: bool
) -> EvaluationSet:
    """Builds the evaluation set of labeled pictures, with their own classes. Unreadable pictures have no label.

    Args:
        name: Name of the set in metrics.
        labeled: The set.
        decode: Turns a table into stored pictures, uint8 (N, 3, h, w), and whether each could be read, bool (N,).
        templates: Prompts with one ``{}`` each, for a set that brings none.
        follow_outside: Whether to read pictures outside the set's folder.

    Raises:
        UsageError: If something of the set is missing or does not fit.
    """
    argument = f'data.labeled.{name}'
    splits = labeled.read(argument)
    classes, templates = read_prompts(labeled.prompts, splits.test.classes, templates, f'{argument}.prompts')

    def build(table: PairTable, train: Callable[[], EvaluationSet] | None = None) -> EvaluationSet:
        table = leave_out_outside(table, follow_outside)
        images, readable = decode(table)
        label = np.where(readable, table.label, UNKNOWN)
        return EvaluationSet(name, images, label, None, classes, templates, labeled.metric, train)

    read_train = splits.train
    return build(splits.test, None if read_train is None else lambda: build(read_train()))


def read_prompts(
    file: str | None, classes: Sequence[str], templates: Sequence[str], argument: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names and templates of a set, from its file where that has them.

    Raises:
        UsageError: If the file is not one of prompts, or names another number of classes.
    """
    if file is None:
        return tuple(classes), tuple(templates)
    given = _read_lists(require_path(file, argument), f'{argument}={file!r}')
    names = given.get('classes', classes)
    if len(names) != len(classes):
        raise UsageError(f'{argument}={file!r} names {len(names)} classes, but the set has {len(classes)}: name all.')
    check_class_names(names, f'{argument}={file!r}')
    return tuple(names), check_templates(given.get('templates', templates), f'{argument}={file!r}')


def _read_lists(path: Path, named: str) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError, RecursionError):
        content = None
    lists = content if isinstance(content, dict) else {}
    are_texts = all(isinstance(v, list) and all(isinstance(text, str) for text in v) for v in lists.values())
    if not lists or not are_texts or not lists.keys() <= {'classes', 'templates'}:
        raise UsageError(f'{named} is no file of prompts: write {{"classes": [...], "templates": [...]}} in JSON.')
    return lists
