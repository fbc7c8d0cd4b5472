"""Labeled images with captions made from the names of their classes."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import Dataset

from datamodules.files.class_folders import class_folders, images_by_class
from datamodules.files.reading import cleaned, existing
from datamodules.pairs import PairsDataModule
from datamodules.pictures.identity import identify_array, identify_files, identify_pixels
from datamodules.pictures.images import FolderImages, UnreadableImage
from datamodules.rows.draws import bits
from datamodules.rows.subsets import balanced_rows, random_rows
from datamodules.rows.table import ImageOpener, PairTable, digest_strings
from datamodules.text.prompts import imagenet_templates, prompts
from datamodules.usage_error import UsageError

_TRAIN, _HELDOUT = 0, 1  # streams of captions
_LABELS = ('targets', 'labels', '_labels')  # where the sets of torchvision keep labels; reading them decodes no image
_FILES = ('samples', '_samples', '_image_files', '_images', 'images')  # and where they keep paths, or (path, label)
_NOT_CONTENT = ('root', 'download')  # arguments of a data set that do not say which pictures it holds


class CaptionedImages(PairsDataModule):
    """A folder of classes, or a data set of torchvision, as pairs: a caption template filled with the class.

    A folder holds ``train/<class>/*.jpg`` and ``test`` or ``val`` of the same form. Classes are numbered in the
    order of their folders' names, and called like them, with spaces for underscores; ``classes.tsv`` beside
    ``train`` gives other names, ``<folder><tab><name>, <synonym>`` in each line, of which the first counts, and
    its order. Give either ``root``, or ``train`` and perhaps ``test``, or ``dataset``.

    Args:
        root: Folder that holds the two.
        train: Folder of classes to train on.
        test: Folder of classes that are held out.
        dataset: Class of a labeled data set, such as ``torchvision.datasets.CIFAR10``.
        dataset_kwargs: Its arguments. If it knows ``train`` or ``split``, the other part is held out.
        heldout_kwargs: Its arguments for held-out images, on top of ``dataset_kwargs``; ``{}`` if none are held out.
        caption_templates: Captions with one ``{}`` each, drawn for each image; the 80 of CLIP's authors if ``None``.
        caption_seed: Seed of that draw.
        subset: Training images to draw instead of taking all.
        subset_by: ``class``: equally many of each class as far as it has them. ``chance``: whichever come.
        subset_seed: Seed of that draw.
        **kwargs: As for :class:`PairsDataModule`. A list of ``class_names`` renames the classes, in their order.

    Raises:
        UsageError: If it is not clear where the images come from, or a template has no ``{}``.
    """

    def __init__(
        self,
        root: str | None = None,
        train: str | None = None,
        test: str | None = None,
        dataset: str | None = None,
        dataset_kwargs: dict[str, Any] | None = None,
        heldout_kwargs: dict[str, Any] | None = None,
        caption_templates: list[str] | None = None,
        caption_seed: int = 0,
        subset: int | None = None,
        subset_by: Literal['class', 'chance'] = 'class',
        subset_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if sum(place is not None for place in (root, train, dataset)) != 1:
            raise UsageError('give one of data.root, data.train (perhaps with data.test) and data.dataset.')
        if test is not None and train is None:
            raise UsageError('data.test goes with data.train: name the folder of training images, too.')
        self.root, self.train, self.test, self.dataset = root, train, test, dataset
        self.dataset_kwargs, self.heldout_kwargs = dataset_kwargs or {}, heldout_kwargs
        self.caption_templates = imagenet_templates() if caption_templates is None else tuple(caption_templates)
        self.caption_seed = caption_seed
        self.subset, self.subset_by, self.subset_seed = subset, subset_by, subset_seed
        if not self.caption_templates or any('{}' not in template for template in self.caption_templates):
            raise UsageError('data.caption_templates must be captions with {} where the class goes, at least one.')

    def load_table(self) -> PairTable:
        """The training images in the order of their classes and names, or in that of the data set."""
        if self.dataset is None:
            table = self._from_folder(self._train_folder(), _TRAIN)
        else:
            table = self._from_dataset(self.dataset_kwargs, 'data.dataset_kwargs', _TRAIN)
        if self.subset is None:
            return table
        if self.subset_by == 'class':
            return table.take(balanced_rows(table.label, self.subset, self.subset_seed))
        return table.take(random_rows(len(table), self.subset, self.subset_seed))

    def load_heldout(self) -> PairTable | None:
        """The test images with their labels, if there are any."""
        if self.dataset is None:
            folder = self._test_folder()
            return None if folder is None else self._from_folder(folder, _HELDOUT)
        other = _other_part(self.dataset, self.dataset_kwargs) if self.heldout_kwargs is None else self.heldout_kwargs
        return self._from_dataset(self.dataset_kwargs | other, 'data.heldout_kwargs', _HELDOUT) if other else None

    # --- folders --------------------------------------------------------------------------------------------------

    def _train_folder(self) -> Path:
        if self.root is None:
            return existing(str(self.train), 'data.train')
        if not (existing(self.root, 'data.root') / 'train').is_dir():
            raise UsageError(f'data.root={self.root!r} has no folder train: add it, or name it as data.train.')
        return Path(self.root, 'train')

    def _test_folder(self) -> Path | None:
        if self.root is None:
            return None if self.test is None else existing(self.test, 'data.test')
        return next((folder for name in ('test', 'val') if (folder := Path(self.root, name)).is_dir()), None)

    def _from_folder(self, folder: Path, stream: int) -> PairTable:
        names = class_folders(self._train_folder())
        images, label = images_by_class(folder, list(names))
        # Relative to the folder above: with equal file names, the pictures of train and test must not be confused.
        references = pa.array([f'{folder.name}/{image}' for image in images], pa.string())
        return self._captioned(references, label, list(names.values()), FolderImages(folder.parent), stream)

    # --- data sets ------------------------------------------------------------------------------------------------

    def _from_dataset(self, kwargs: Mapping[str, Any], argument: str, stream: int) -> PairTable:
        assert self.dataset is not None
        data = _opened(self.dataset, kwargs, argument)
        label = _labels_of(data)
        names = [
            name if isinstance(name, str) else name[0] for name in getattr(data, 'classes', ())
        ]  # ImageNet: tuples
        rows = np.flatnonzero(label >= 0)  # the unlabeled part of STL-10 has -1
        content = ', '.join(f'{key}={value}' for key, value in sorted(kwargs.items()) if key not in _NOT_CONTENT)
        references = pa.array([f'{type(data).__name__}({content}):{row}' for row in rows], pa.string())
        return self._captioned(references, label[rows], names, DatasetImages(data), stream)

    # --- captions -------------------------------------------------------------------------------------------------

    def _captioned(
        self, images: pa.Array, label: np.ndarray, names: Sequence[str], opener: ImageOpener, stream: int
    ) -> PairTable:
        classes = tuple(names if isinstance(self.class_names, str) else self.class_names)
        found = max(len(names), int(label.max(initial=-1)) + 1)
        if len(classes) != found:
            raise UsageError(
                f'data.class_names must name the {found} classes of the data, in order; got {len(classes)}.'
            )
        captions = [prompts(name, self.caption_templates) for name in classes]
        choice = bits(len(label), self.caption_seed, stream) % np.uint64(len(self.caption_templates))
        captions = [captions[c][t] for c, t in zip(label.tolist(), choice.tolist(), strict=True)]
        return PairTable(images, cleaned(pa.array(captions, pa.string())), label, classes, opener=opener)


class DatasetImages:
    """Pictures of a data set of torchvision; a reference ends in ``:<index>``, what is before it names the set."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def identity(self, references: pa.Array | pa.ChunkedArray) -> bytes:
        """All pixels if in memory, else sizes and modification times of files, else the pixels of a few pictures."""
        pixels, files = getattr(self.data, 'data', None), _files_of(self.data)
        if isinstance(pixels, np.ndarray | torch.Tensor):
            return identify_array(np.asarray(pixels))
        if files is None:
            return identify_pixels(self, references)
        root = Path(str(getattr(self.data, 'root', '')))
        names = pa.array([os.path.relpath(file, root) for file in files], pa.string())
        return digest_strings(names) + identify_files(root, names)

    def __call__(self, reference: str, least: int | None = None) -> Image.Image:
        try:
            picture: Image.Image = self.data[int(reference.rpartition(':')[2])][0]
            return picture.convert('RGB')
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableImage(str(error)) from error


# --- data sets of torchvision ---------------------------------------------------------------------------------------


def _opened(dataset: str, kwargs: Mapping[str, Any], argument: str) -> Any:
    """The data set that a class and arguments describe.

    Raises:
        UsageError: If there is no such class, or it cannot be opened with them.
    """
    found = _class_of(dataset)
    try:
        return found(**kwargs)
    except (RuntimeError, OSError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).split('\n')[0].rstrip('.')
        raise UsageError(f'{dataset} cannot be opened with {argument}={dict(kwargs)}: {reason}.') from error


def _class_of(dataset: str) -> type[Any]:
    module, _, name = dataset.rpartition('.')
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f'data.dataset={dataset!r} is not to be found: give torchvision.datasets.CIFAR10.') from error
    if not (isinstance(found, type) and issubclass(found, Dataset)):
        raise UsageError(f'data.dataset={dataset!r} is no data set: give a class such as torchvision.datasets.CIFAR10.')
    return found


def _other_part(dataset: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the held-out part of a data set, none if it does not say that it has one."""
    known = inspect.signature(_class_of(dataset)).parameters
    if 'train' in known:
        return {'train': not kwargs.get('train', known['train'].default)}
    if 'split' in known and kwargs.get('split', known['split'].default) != 'test':
        return {'split': 'test'}
    return {}


def _files_of(data: Any) -> list[str] | None:
    """Paths of the images; ``None`` if the data set does not list them, or one is not UTF-8."""
    listed = next((getattr(data, name) for name in _FILES if hasattr(data, name)), None)
    entries = [entry[0] if isinstance(entry, tuple) else entry for entry in listed or ()]
    if not entries or not all(isinstance(entry, str | Path) and _is_utf8(str(entry)) for entry in entries):
        return None
    return [str(entry) for entry in entries]


def _is_utf8(path: str) -> bool:
    return path.encode(errors='replace') == path.encode(errors='surrogateescape')


def _labels_of(data: Any) -> np.ndarray:
    """Label of each image, int64 (N,)."""
    kept = next((getattr(data, name) for name in _LABELS if hasattr(data, name)), None)
    return np.asarray([data[row][1] for row in range(len(data))] if kept is None else kept, np.int64)
