"""Visual Genome (Krishna et al., 2017): photos with some 50 described regions each, as published."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.files.json_items import field, json_items
from datamodules.files.reading import existing, images_in
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.draws import shuffled
from datamodules.rows.table import PairTable
from datamodules.text.caption_groups import Annotated, CaptionGroups, stored_groups
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

FOLDERS = ('VG_100K', 'VG_100K_2')  # as images.zip and images2.zip unpack; no name is in both
_BETWEEN = ', '  # regions; phrases are not sentences


class VisualGenome(PairsDataModule):
    """Visual Genome, a pair for each image: some of its region descriptions, drawn at random, make one caption.

    Under ``root`` lie ``region_descriptions.json``, ``image_data.json`` and the folders ``VG_100K`` and ``VG_100K_2``
    of images, of which one is enough. The file of 5.4 million regions is read once, and comes from ``cache_dir``
    from then on. Rows are in its order. Images that are not there are left out.

    Args:
        root: Folder of the data set.
        regions: Descriptions that make a caption; an image with fewer has all of them.
        region_seed: Seed of that draw.
        heldout_images: Images to hold out, drawn at random, as nothing is held out by the authors; 0 for none.
        heldout_seed: Seed of that draw.
        **kwargs: As for :class:`PairsDataModule`.

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
        """The pairs that are not held out."""
        return self._pairs.take(np.flatnonzero(~self._is_heldout)) if self.heldout_images else self._pairs

    def load_heldout(self) -> PairTable | None:
        """The pairs of some images, if any are held out."""
        return self._pairs.take(np.flatnonzero(self._is_heldout)) if self.heldout_images else None

    @cached_property
    def _is_heldout(self) -> np.ndarray:
        images = len(self._pairs)
        if self.heldout_images >= images:
            raise UsageError(
                f'data.heldout_images={self.heldout_images} leaves none of the {images:,} images to train on: lower it.'
            )
        return shuffled(images, self.heldout_seed) < self.heldout_images

    @cached_property
    def _pairs(self) -> PairTable:
        root = existing(self.root, 'data.root')
        regions, images = self._file('region_descriptions.json'), self._file('image_data.json')
        source = f'data.root={self.root!r}: {regions.name}'
        groups = stored_groups([regions, images], self.cache_dir, lambda: read_visual_genome(regions, images, source))
        there = {name: f'{folder}/{name}' for folder in self._folders() for name in images_in(root / folder)}
        found = CaptionGroups(groups, there, root / FOLDERS[0], source)
        image, caption = found.joined(self.regions, self.region_seed, _BETWEEN)
        return PairTable(image, caption, opener=FolderImages(root))

    def _file(self, name: str) -> Path:
        if not (file := Path(self.root, name)).is_file():
            raise UsageError(f'data.root={self.root!r} holds no {name}: unpack {name}.zip there, see docs/data.md.')
        return file

    def _folders(self) -> list[str]:
        there = [folder for folder in FOLDERS if Path(self.root, folder).is_dir()]
        if not there:
            raise UsageError(f'data.root={self.root!r} holds neither {" nor ".join(FOLDERS)}: unpack images.zip there.')
        if len(there) < len(FOLDERS):
            log.warning('data.root=%r holds %s alone, and half of the images with it', self.root, there[0])
        return there


def read_visual_genome(regions: Path, images: Path, source: str) -> Iterator[Annotated]:
    """Images and descriptions of their regions, in the order of the regions' file; an image that is unknown is None.

    Raises:
        UsageError: If a file is not the published one.
    """
    names = dict(_named(item, f'{source}, {images.name}') for _, item in json_items(images, f'{source}, {images.name}'))
    for _, item in json_items(regions, source):
        described = field(item, 'regions', list, source)
        yield names.get(_number(item, source)), [field(region, 'phrase', str, source) for region in described]


def _named(item: Any, source: str) -> tuple[int, str]:
    """Number and file of an image; the address ends with its folder and name."""
    return _number(item, source), PurePosixPath(field(item, 'url', str, source)).name


def _number(item: Any, source: str) -> int:
    """Number of an image: ``image_id`` as documented, or ``id`` as in the file of regions and in version 1.0."""
    key = 'id' if isinstance(item, dict) and 'image_id' not in item else 'image_id'
    number: int = field(item, key, int, source)
    return number
