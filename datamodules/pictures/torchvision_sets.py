"""Pictures and labels of torchvision's data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import EpsImagePlugin, Image
from torch.utils.data import Dataset

from datamodules.files.left_behind import is_left_behind
from datamodules.files.left_out import LeftOut
from datamodules.files.quoting import quote
from datamodules.files.reading import is_utf8
from datamodules.pictures.identity import identify_array, identify_files, identify_pixels
from datamodules.pictures.images import UnreadableImage, decode_file
from datamodules.pictures.modes import to_rgb
from datamodules.rows.table import digest_strings
from datamodules.usage_error import UsageError

_LABEL_ATTRIBUTES = ('targets', 'labels', '_labels')  # reading them decodes no image
_PATH_ATTRIBUTES = ('samples', '_samples', '_image_files', '_images', 'images')  # paths, or tuples of path and label


class DatasetImages:
    """Pictures of a torchvision data set; a reference is ``<name of the set>:<index>``.

    Files of which the set would show no more than their pixels are read like those of other tables, because
    torchvision's own loader converts to RGB what has 16 bits or transparency.
    """

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def identity(self, references: pa.Array | pa.ChunkedArray) -> bytes:
        """Hashes all pixels if in memory, else sizes and modification times of files, else pixels of a few pictures."""
        pixels, files = getattr(self.data, 'data', None), list_files(self.data)
        if isinstance(pixels, np.ndarray | torch.Tensor):
            return identify_array(np.asarray(pixels))
        if files is None:
            return identify_pixels(self, references)
        root = Path(str(getattr(self.data, 'root', '')))
        names = pa.array([os.path.relpath(file, root) for file in files], pa.string())
        return digest_strings([names]) + identify_files(root, names)

    @cached_property
    def _files(self) -> list[str] | None:
        return list_files(self.data)

    @cached_property
    def _shows_files(self) -> bool:
        return self._files is not None and shows_files(self.data)

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        row = int(reference.rpartition(':')[2])
        if self._files is not None and self._shows_files:
            return decode_file(self._files[row], min_side)
        if self._files is not None and not os.path.isfile(self._files[row]):  # a FIFO would wait for ever
            raise UnreadableImage(f'{quote(self._files[row])} is not a regular file', 'not a file')
        EpsImagePlugin.gs_binary = False  # whatever a file is called, PIL may take it for EPS and start Ghostscript
        try:
            picture: Image.Image = self.data[row][0]
            return to_rgb(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableImage(str(error)) from error


def list_files(data: Any) -> list[str] | None:
    """Lists the paths of the images; ``None`` if the data set does not list them, or one is not UTF-8."""
    entries = [entry[0] if isinstance(entry, tuple) else entry for entry in _first_of(data, _PATH_ATTRIBUTES) or ()]
    if not entries or not all(isinstance(entry, str | Path) and is_utf8(str(entry)) for entry in entries):
        return None
    return [str(entry) for entry in entries]


def drop_left_behind(
    data: Any, label: np.ndarray, names: Sequence[str], source: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Drops images and classes of folders that systems leave behind, which torchvision takes for classes.

    Args:
        data: The data set; only one of class folders, such as ``ImageFolder``, has such folders.
        label: Label of each image, int64 (N,).
        names: Names of the classes.
        source: What was read, as ``data.<argument>``, for the log.

    Returns:
        Rows that are kept, int64 (n,); the label of each image, int64 (N,), numbered without the dropped classes; and
        the names of the classes that are kept.
    """
    kept = np.flatnonzero(~_are_left_behind(data, len(label), source))
    used = set(label[kept].tolist())
    is_class = np.array([number in used or not is_left_behind(name) for number, name in enumerate(names)], bool)
    if not _has_class_folders(data) or is_class.all():
        return kept, label, list(names)
    return kept, (np.cumsum(is_class) - 1)[label], list(compress(names, is_class))


def _are_left_behind(data: Any, images: int, source: str) -> np.ndarray:
    """Tells which images are in a folder, or have a name, that systems leave behind, and logs how many; bool (N,)."""
    files = list_files(data) if _has_class_folders(data) else None
    if files is None:
        return np.zeros(images, bool)
    paths, left_out = [os.path.relpath(file, data.root) for file in files], LeftOut('images')
    left_behind = np.array([any(map(is_left_behind, path.split(os.sep))) for path in paths], bool)
    for row in np.flatnonzero(left_behind):
        left_out.add('are hidden or left behind by a system', quote(paths[row]))
    left_out.log(source, images)
    return left_behind


def _has_class_folders(data: Any) -> bool:
    from torchvision.datasets import DatasetFolder  # takes a second

    return isinstance(data, DatasetFolder)


def shows_files(data: Any) -> bool:
    """Tells whether a data set shows its files as they are: torchvision's code, its loader, and no transform."""
    from torchvision.datasets.folder import default_loader  # takes a second

    own_code = type(data).__getitem__.__module__.startswith('torchvision.')
    loaders = [getattr(data, name, default_loader) for name in ('loader', '_loader')]
    transforms = [getattr(data, name, None) for name in ('transform', 'transforms')]
    return own_code and all(loader is default_loader for loader in loaders) and not any(transforms)


def read_labels(data: Any, source: str) -> np.ndarray:
    """Reads the label of each image, int64 (N,); by decoding every image where the data set keeps no labels.

    Raises:
        UsageError: If there is not one class number for each image.
    """
    labels = _first_of(data, _LABEL_ATTRIBUTES)
    if labels is None:
        labels = [entry[1] for entry in _first_of(data, _PATH_ATTRIBUTES) or () if isinstance(entry, tuple)]
        labels = labels or [_label_of(data, row) for row in range(len(data))]
    if (numbers := _as_class_numbers(labels)) is None or numbers.shape != (len(data),):
        raise UsageError(f'{source} has not one class number for each image: give a data set for classification.')
    return numbers


def _first_of(data: Any, attributes: Sequence[str]) -> Any:
    return next((getattr(data, name) for name in attributes if hasattr(data, name)), None)


def _as_class_numbers(labels: Any) -> np.ndarray | None:
    """Returns whole numbers as an array, ``None`` if some labels are none."""
    try:
        with np.errstate(invalid='ignore'):
            given = np.asarray(labels)
            numbers = given.astype(np.int64)
    except (TypeError, ValueError):
        return None
    return numbers if bool(np.all(numbers == given)) else None


def _label_of(data: Any, row: int) -> Any:
    try:
        return data[row][1]
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return -1  # the image cannot be decoded
