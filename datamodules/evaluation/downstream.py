"""The ten sets that SafeCLIP's Table 11 lists, in the layouts in which torchvision stores them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from datamodules.evaluation.labeled import (
    ClassFolders,
    LabeledSet,
    Splits,
    labeled_table,
    read_labeled_folder,
    rows_per_class,
)
from datamodules.evaluation.sets import Metric
from datamodules.pictures.images import ArrayImages, FolderImages
from datamodules.pictures.torchvision_sets import list_files, read_labels
from datamodules.rows.table import ImageOpener, PairTable
from datamodules.text.prompts import imagenet_classes
from datamodules.usage_error import UsageError

Name = Literal[
    'CIFAR10', 'CIFAR100', 'Caltech101', 'DTD', 'FGVCAircraft',
    'Flowers102', 'Food101', 'ImageNet', 'OxfordIIITPet', 'StanfordCars',
]  # fmt: skip
Part = Mapping[str, Any]  # arguments of the class in torchvision that select a part

_CALTECH101_FOLDER = 'caltech101/101_ObjectCategories'
_TRAIN_PER_CLASS = {'Caltech101': 30, 'ImageNet': 50}  # Table 11: 3,060 of 102 classes and 50,000 of 1,000


class Published(NamedTuple):
    """How a set is split and measured.

    Attributes:
        classes: Number of its classes.
        train: Parts that a probe is trained on, none for a set that torchvision does not split.
        test: Part to measure on.
        metric: What the field reports (Radford et al., 2021; Kornblith et al., 2019).
    """

    classes: int
    train: Sequence[Part] = ()
    test: Part = MappingProxyType({})
    metric: Metric = 'accuracy'


_TRAIN, _VAL, _TRAINVAL, _TEST = ({'split': name} for name in ('train', 'val', 'trainval', 'test'))
PUBLISHED: Mapping[str, Published] = {  # the released code trains the probe of Flowers102 on its test pictures
    'CIFAR10': Published(10, [{'train': True}], {'train': False}),
    'CIFAR100': Published(100, [{'train': True}], {'train': False}),
    'Caltech101': Published(102, metric='mean_per_class'),
    'DTD': Published(47, [_TRAIN, _VAL], _TEST),
    'FGVCAircraft': Published(100, [_TRAINVAL], _TEST, 'mean_per_class'),
    'Flowers102': Published(102, [_TRAIN, _VAL], _TEST, 'mean_per_class'),
    'Food101': Published(101, [_TRAIN], _TEST),
    'ImageNet': Published(1000),
    'OxfordIIITPet': Published(37, [_TRAINVAL], _TEST, 'mean_per_class'),
    'StanfordCars': Published(196, [_TRAIN], _TEST),
}


class DownstreamSet(LabeledSet):
    """A published set, unpacked as torchvision does with ``download=True``; nothing is downloaded here.

    ``Caltech101`` has 30 training pictures of each of its 102 classes, background included, and is tested on all
    others. ``ImageNet`` is ``train`` and ``val`` with a folder for each WordNet id; a probe is trained on 50 pictures
    of each class.

    Args:
        name: Name of the set, which is that of its class in torchvision.
        root: Folder that torchvision calls ``root``.
        metric: What is reported; by default what the field reports, which is ``mean_per_class`` for Caltech101,
            FGVCAircraft, Flowers102 and OxfordIIITPet.
        prompts: As for :class:`LabeledSet`.
    """

    def __init__(self, name: Name, root: str, metric: Metric | None = None, prompts: str | None = None) -> None:
        super().__init__(metric or PUBLISHED[name].metric, prompts)
        self.name, self.root = name, root

    def read(self, argument: str) -> Splits:
        if self.name == 'Caltech101':
            table = read_labeled_folder(str(Path(self.root, _CALTECH101_FOLDER)), f'{argument}.root')
            train = rows_per_class(self._complete(table, argument).label, _TRAIN_PER_CLASS[self.name])
            return Splits(table.take(np.setdiff1d(np.arange(len(table)), train)), lambda: table.take(train))
        if self.name == 'ImageNet':
            splits = ClassFolders(self.root, _TRAIN_PER_CLASS[self.name]).read(argument)
            return splits._replace(test=_with_imagenet_names(self._complete(splits.test, argument)))
        published = PUBLISHED[self.name]
        test, *train_parts = [self._read_part(part, argument) for part in (published.test, *published.train)]
        return Splits(test, lambda: _joined(train_parts))

    def _complete(self, table: PairTable, argument: str) -> PairTable:
        """Returns a part of the set; refuses one without all of its classes, whose labels may mean others."""
        if (number := len(table.classes)) != (expected := PUBLISHED[self.name].classes):
            raise UsageError(
                f'{argument}.root={self.root!r} has {number} classes of {self.name}, not {expected}: complete it, or '
                f'give folders of your own classes as ClassFolders.'
            )
        return table

    def _read_part(self, part: Part, argument: str) -> PairTable:
        """Reads a part of a set that torchvision reads from files or, for CIFAR, from arrays."""
        from torchvision import datasets  # takes a second

        try:
            data = getattr(datasets, self.name)(self.root, **part)
            label, files = read_labels(data, argument), list_files(data)
        except Exception as error:  # whatever a damaged file makes torchvision or SciPy raise
            reason = str(error).split('\n')[0].partition('. You can use download=True')[0]
            raise UsageError(
                f'{argument}.root={self.root!r} does not hold {self.name} ({reason}): unpack it there as '
                f'torchvision.datasets.{self.name} does.'
            ) from error
        names = [name.replace('_', ' ') for name in data.classes]
        opener: ImageOpener = ArrayImages(data.data) if files is None else FolderImages(self.root)
        images = [*map(str, range(len(label)))] if files is None else [_relative(file, self.root) for file in files]
        return self._complete(labeled_table(images, label, names, opener), argument)


def _relative(file: str, root: str) -> str:
    return Path(os.path.relpath(file, root)).as_posix()


def _joined(parts: Sequence[PairTable]) -> PairTable:
    """One table of several that share their classes and their opener."""
    images = [image for part in parts for image in part.image.to_pylist()]
    label = np.concatenate([part.label for part in parts])
    return parts[0] if len(parts) == 1 else labeled_table(images, label, parts[0].classes, parts[0].opener)


def _with_imagenet_names(table: PairTable) -> PairTable:
    """Names the classes as CLIP's authors do; WordNet ids, which name the folders, sort as ImageNet's numbers do."""
    return PairTable(table.image, table.caption, table.label, imagenet_classes(), opener=table.opener)
