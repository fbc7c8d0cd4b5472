"""Visual Genome (Krishna et al., 2017): photos with about 50 described regions each, as published."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.files.json_items import json_items, read_id, read_list, read_text
from datamodules.files.reading import list_images, require_path
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.draws import permutation
from datamodules.rows.table import PairTable
from datamodules.text.caption_groups import AnnotatedImage, CaptionGroups, stored_groups
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

IMAGE_FOLDERS = ('VG_100K', 'VG_100K_2')  # from images.zip and images2.zip; no file name is in both
_REGION_SEPARATOR = ', '  # phrases are not sentences


class VisualGenome(PairsDataModule):
    """Visual Genome: ``region_descriptions.json``, ``image_data.json``, ``VG_100K/`` and ``VG_100K_2/`` in one folder.

    Each image becomes a pair. Its caption consists of a few of its region descriptions, drawn at random. One of the
    two image folders is enough. The 5.4 million regions are read once and kept in ``cache_dir`` from then on. Rows
    are in the order of ``region_descriptions.json``. Images that are missing on disk are left out.

    Args:
        root: Folder with ``region_descriptions.json``, ``image_data.json`` and the image folders ``VG_100K`` and
            ``VG_100K_2``, of which one is enough.
        regions: Number of region descriptions in a caption; an image with fewer uses all of them.
        region_seed: Seed that draws the regions of each image.
        heldout_images: Number of images to hold out, drawn at random, as the authors give no split; 0 for none.
        heldout_seed: Seed that draws the held-out images.
        **kwargs: Arguments of :class:`PairsDataModule`.

    Raises:
        UsageError: If a number is out of range.
    """

    def __init__(
        self,
        root: str,
        regions: int = 5,
        region_seed: int = 0,
        heldout_images: int = 1000,
        heldout_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if regions < 1 or heldout_images < 0:
            raise UsageError(
                f'data.regions={regions} must be at least 1, and data.heldout_images={heldout_images} at least 0.'
            )
        self.root, self.regions, self.region_seed = root, regions, region_seed
        self.heldout_images, self.heldout_seed = heldout_images, heldout_seed

    def load_table(self) -> PairTable:
        """Returns the pairs that are not held out."""
        return self._pairs.take(np.flatnonzero(~self._is_heldout)) if self.heldout_images else self._pairs

    def load_heldout(self) -> PairTable | None:
        """Returns the pairs of the held-out images, if there are any."""
        return self._pairs.take(np.flatnonzero(self._is_heldout)) if self.heldout_images else None

    @cached_property
    def _is_heldout(self) -> np.ndarray:
        images = len(self._pairs)
        if self.heldout_images >= images:
            raise UsageError(
                f'data.heldout_images={self.heldout_images} leaves none of the {images:,} images to train on: lower it.'
            )
        return permutation(images, self.heldout_seed) < self.heldout_images

    @cached_property
    def _pairs(self) -> PairTable:
        root = require_path(self.root, 'data.root')
        regions, images = self._file('region_descriptions.json'), self._file('image_data.json')
        source = f'data.root={self.root!r}: {regions.name}'
        groups = stored_groups([regions, images], self.cache_dir, lambda: read_visual_genome(regions, images, source))
        references = {name: f'{folder}/{name}' for folder in self._folders() for name in list_images(root / folder)}
        described = CaptionGroups(groups, references, root / IMAGE_FOLDERS[0], source)
        image, caption = described.join(self.regions, self.region_seed, _REGION_SEPARATOR)
        return PairTable(image, caption, opener=FolderImages(root))

    def _file(self, name: str) -> Path:
        if not (file := Path(self.root, name)).is_file():
            raise UsageError(f'data.root={self.root!r} has no {name}: unpack {name}.zip there, see docs/data.md.')
        return file

    def _folders(self) -> list[str]:
        present = [folder for folder in IMAGE_FOLDERS if Path(self.root, folder).is_dir()]
        if not present:
            folders = ' nor '.join(IMAGE_FOLDERS)
            raise UsageError(f'data.root={self.root!r} has neither {folders}: unpack images.zip there.')
        if len(present) < len(IMAGE_FOLDERS):
            log.warning('data.root=%r has only %s, with half of the images', self.root, present[0])
        return present


def read_visual_genome(regions: Path, images: Path, source: str) -> Iterator[AnnotatedImage]:
    """Yields images with the descriptions of their regions, in the order of the file of regions.

    The name is ``None`` for an image that ``image_data.json`` does not list. Images that are listed again, or without
    number and address, come without a name and a description.

    Raises:
        UsageError: If a file is not the published one.
    """
    names: dict[int | str | None, str] = {}
    for _, item in json_items(images, f'{source}, {images.name}'):
        if (address := read_text(item, 'url')) and (number := _read_number(item)) is not None and number not in names:
            names[number] = PurePosixPath(address).name  # the address ends with folder and name
        else:
            yield None, []
    if not names:
        raise UsageError(
            f'{source}, {images.name} lacks images with image_id and url: it is not the published file, see '
            f'docs/data.md.'
        )
    described = False
    for _, item in json_items(regions, source):
        number = _read_number(item)
        phrases = [read_text(region, 'phrase') for region in read_list(item, 'regions')]
        described |= any(phrases)
        yield (names.pop(number), phrases) if number in names else (None, phrases)
    if not described:
        raise UsageError(f'{source} lacks regions with a phrase: it is not the published file, see docs/data.md.')


def _read_number(item: Any) -> int | str | None:
    """Reads ``image_id`` as documented, or ``id`` as in the file of regions and in version 1.0."""
    return read_id(item, 'image_id', 'id')
