"""Labeled images with captions made from the names of their classes."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from datamodules.files.class_folders import list_images_by_class, read_class_names
from datamodules.files.reading import clean_captions, is_utf8, require_folder, require_path
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.pictures.torchvision_sets import DatasetImages, drop_left_behind, read_labels
from datamodules.rows.draws import bits
from datamodules.rows.subsets import balanced_rows, random_rows
from datamodules.rows.table import ImageOpener, PairTable
from datamodules.text.prompts import check_templates, fill_templates, imagenet_templates
from datamodules.usage_error import UsageError, check_number

log = logging.getLogger(__name__)

_TRAIN, _HELDOUT = 0, 1  # random streams that captions are drawn from
_LOCATION_ARGUMENTS = ('root', 'download')  # arguments of a data set that do not change which pictures it has


class CaptionedImages(PairsDataModule):
    """Labeled images, in ``<root>/train/<class>/*.jpg`` or a torchvision data set; captions are filled templates.

    Give either ``root``, or ``train`` and possibly ``test``, or ``dataset``. A root folder contains
    ``train/<class>/*.jpg`` and, if images are held out, ``test`` or ``val`` with the same layout. Classes are numbered
    in the order of their folders and have the folders' names, with spaces for underscores. For other names or another
    order, put ``classes.tsv`` beside ``train``, with ``<folder><tab><name>, <synonym>`` in each line; only the first
    name is used.

    Args:
        root: Folder that contains ``train/<class>/*.jpg`` and, for held-out images, ``test`` or ``val`` with the same
            layout.
        train: Folder that contains one folder of training images for each class, ``<class>/*.jpg``.
        test: Folder that contains one folder of held-out images for each class, ``<class>/*.jpg``; goes with
            ``train``.
        dataset: Class of a labeled data set, such as ``torchvision.datasets.CIFAR10``.
        dataset_kwargs: Arguments of ``dataset``, such as ``{root: data, download: true}``. If the class has an
            argument ``train`` or ``split``, its other part is held out.
        heldout_kwargs: Arguments of ``dataset`` for held-out images, on top of ``dataset_kwargs``; ``{}`` to hold
            nothing out.
        caption_templates: Captions with one ``{}`` for the class, drawn at random for each image. Defaults to the 80
            prompts of CLIP's authors.
        caption_seed: Seed that draws the template of each image.
        subset: Number of training images to draw at random; by default all are used.
        subset_by: ``class`` draws equally many of each class, as far as it has them; ``chance`` ignores classes.
        subset_seed: Seed that draws the subset.
        subset_skip: Images of the same draw to leave out first, for a subset that shares none with one of that size.
        **kwargs: Arguments of :class:`PairsDataModule`. A list of ``class_names`` renames the classes, in their order.

    Raises:
        UsageError: If more or less than one source of images is given, or a template has no ``{}``.
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
        subset_skip: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if sum(source is not None for source in (root, train, dataset)) != 1:
            raise UsageError('give exactly one of data.root, data.train (possibly with data.test) and data.dataset.')
        if test is not None and train is None:
            raise UsageError('data.test goes with data.train: also name the folder of training images.')
        self.root, self.train, self.test, self.dataset = root, train, test, dataset
        self.dataset_kwargs, self.heldout_kwargs = dataset_kwargs or {}, heldout_kwargs
        templates = imagenet_templates() if caption_templates is None else caption_templates
        self.caption_templates = check_templates(templates, 'data.caption_templates')
        self.caption_seed = caption_seed
        check_number('data.subset_skip', subset_skip, '[0, inf)')
        self.subset, self.subset_by, self.subset_seed, self.subset_skip = subset, subset_by, subset_seed, subset_skip

    def load_table(self) -> PairTable:
        """Reads the training images, in the order of their classes and names or of the data set."""
        if self.dataset is None:
            table = self._read_folder(self._train_folder(), _TRAIN)
        else:
            table = self._read_dataset(self.dataset_kwargs, 'data.dataset_kwargs', _TRAIN)
        if self.subset is None:
            return table
        drawn = self._draw(table, self.subset_skip + self.subset)
        return table.take(np.setdiff1d(drawn, self._draw(table, self.subset_skip)) if self.subset_skip else drawn)

    def _draw(self, table: PairTable, count: int) -> np.ndarray:
        if self.subset_by == 'class':
            return balanced_rows(table.label, count, self.subset_seed)
        return random_rows(len(table), count, self.subset_seed)

    def load_heldout(self) -> PairTable | None:
        """Reads the held-out images with their labels, if there are any."""
        if self.dataset is None:
            folder = self._test_folder()
            return None if folder is None else self._read_folder(folder, _HELDOUT)
        changed = self.heldout_kwargs
        if changed is None:
            changed = _select_other_part(self.dataset, self.dataset_kwargs)
        return self._read_dataset(self.dataset_kwargs | changed, 'data.heldout_kwargs', _HELDOUT) if changed else None

    # --- folders --------------------------------------------------------------------------------------------------

    def _train_folder(self) -> Path:
        if self.root is None:
            return require_folder(str(self.train), 'data.train')
        if not (require_path(self.root, 'data.root') / 'train').is_dir():
            raise UsageError(
                f'data.root={self.root!r} has no folder train: add it, or name the training images as data.train.'
            )
        return Path(self.root, 'train')

    def _test_folder(self) -> Path | None:
        if self.root is None:
            return None if self.test is None else require_folder(self.test, 'data.test')
        return next((folder for name in ('test', 'val') if (folder := Path(self.root, name)).is_dir()), None)

    def _read_folder(self, folder: Path, stream: int) -> PairTable:
        names = read_class_names(self._train_folder())
        images, label = list_images_by_class(folder, list(names))
        # Relative to the parent folder, so that equal file names in train and test are not taken for one picture.
        references = pa.array([f'{folder.name}/{image}' for image in images], pa.string())
        opener = FolderImages(folder.parent, folder if self.root is None else self.root)
        return self._caption(references, label, list(names.values()), opener, stream)

    # --- torchvision data sets ------------------------------------------------------------------------------------

    def _read_dataset(self, kwargs: Mapping[str, Any], argument: str, stream: int) -> PairTable:
        assert self.dataset is not None
        data = _open_dataset(self.dataset, kwargs, argument)
        label = read_labels(data, f'data.dataset={self.dataset!r}')
        classes = getattr(data, 'classes', ())
        names = [name if isinstance(name, str) else name[0] for name in classes]  # ImageNet has tuples of synonyms
        if unlabeled := int((label < 0).sum()):  # the unlabeled part of STL-10 has -1
            log.warning('data.dataset: %d of %d images have no label; left out', unlabeled, len(label))
        rows, label, names = drop_left_behind(data, label, names, 'data.dataset')
        rows = rows[label[rows] >= 0]
        content = ', '.join(f'{key}={value}' for key, value in sorted(kwargs.items()) if key not in _LOCATION_ARGUMENTS)
        references = pa.array([f'{type(data).__name__}({content}):{row}' for row in rows], pa.string())
        return self._caption(references, label[rows], names, DatasetImages(data), stream)

    # --- captions -------------------------------------------------------------------------------------------------

    def _caption(
        self, images: pa.Array, label: np.ndarray, names: Sequence[str], opener: ImageOpener, stream: int
    ) -> PairTable:
        classes = tuple(names if isinstance(self.class_names, str) else self.class_names)
        count = max(len(names), int(label.max(initial=-1)) + 1)
        if len(classes) != count:
            raise UsageError(
                f'data.class_names must name the {count} classes of the data, in order; got {len(classes)}.'
            )
        if unusable := next((name for name in classes if not is_utf8(name)), None):
            raise UsageError(f'the class {unusable!r} is not UTF-8: rename its folder, or set data.class_names.')
        captions = [fill_templates(name, self.caption_templates) for name in classes]
        choice = bits(len(label), self.caption_seed, stream) % np.uint64(len(self.caption_templates))
        captions = [captions[c][t] for c, t in zip(label.tolist(), choice.tolist(), strict=True)]
        return PairTable(images, clean_captions(pa.array(captions, pa.string())), label, classes, opener=opener)


# --- opening torchvision data sets ----------------------------------------------------------------------------------


def _open_dataset(dataset: str, kwargs: Mapping[str, Any], argument: str) -> Any:
    """Opens a data set, given the path of its class and its arguments.

    Raises:
        UsageError: If the class does not exist or refuses the arguments.
    """
    dataset_class = _import_class(dataset)
    try:
        return dataset_class(**kwargs)
    except (RuntimeError, OSError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).split('\n')[0].rstrip('.')
        raise UsageError(f'{dataset} cannot be opened with {argument}={dict(kwargs)}: {reason}.') from error


def _import_class(dataset: str) -> type[Any]:
    module, _, name = dataset.rpartition('.')
    example = 'give a class such as torchvision.datasets.CIFAR10'
    try:
        imported = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f'data.dataset={dataset!r} does not exist: {example}.') from error
    if not (isinstance(imported, type) and issubclass(imported, Dataset)):
        raise UsageError(f'data.dataset={dataset!r} is not a data set: {example}.')
    return imported


def _select_other_part(dataset: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that select the held-out part of a data set, none if it has no known parts."""
    parameters = inspect.signature(_import_class(dataset)).parameters
    if 'train' in parameters:
        return {'train': not kwargs.get('train', parameters['train'].default)}
    if 'split' in parameters and kwargs.get('split', parameters['split'].default) != 'test':
        return {'split': 'test'}
    return {}
