"""MS-COCO captions (Chen et al., 2015) of 2014 or 2017, as published."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datamodules.files.json_items import field, json_items
from datamodules.files.reading import existing, images_in
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from datamodules.text.caption_groups import Annotated, CaptionGroups, stored_groups
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

Part = Literal['train', 'val']
_USUAL = 5  # captions of an image; a few have six or seven


class COCO(PairsDataModule):
    """COCO's captions, a random one of each image as in SafeCLIP's paper, or all of them.

    Under ``root`` lie ``annotations/captions_train2014.json`` and ``captions_val2014.json``, and the images in
    ``train2014`` and ``val2014`` or in folders of these names in ``images``; those of 2017 likewise. Rows are in the
    order of the list ``images`` in the file. Images that are not there are left out.

    Args:
        root: Folder of the data set.
        year: 2014, of which SafeCLIP's paper takes the 80,000 training images, or 2017 with 118,000.
        captions: ``one`` of each image, drawn at random, or ``all``, each a pair of its own.
        caption_seed: Seed of that draw.
        **kwargs: As for :class:`PairsDataModule`.

    Raises:
        UsageError: If there is no such year or choice of captions.
    """

    def __init__(
        self,
        root: str,
        year: Literal[2014, 2017] = 2014,
        captions: Literal['one', 'all'] = 'one',
        caption_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if year not in (2014, 2017):
            raise UsageError(f'data.year={year} must be 2014 or 2017, the years of COCO with captions.')
        if captions not in ('one', 'all'):
            raise UsageError(f'data.captions={captions!r} must be one or all.')
        self.root, self.year, self.captions, self.caption_seed = root, year, captions, caption_seed

    def load_table(self) -> PairTable:
        """The pairs of the training images."""
        return self._read('train')

    def load_heldout(self) -> PairTable | None:
        """The pairs of the validation images, if their folder is there."""
        if self._folder('val') is None:
            log.warning('data.root=%r holds no folder val%d: nothing is held out', self.root, self.year)
            return None
        return self._read('val')

    def _read(self, part: Part) -> PairTable:
        root, folder = existing(self.root, 'data.root'), self._folder(part)
        if folder is None:
            raise UsageError(
                f'data.root={self.root!r} holds no folder {part}{self.year}: unpack {part}{self.year}.zip there.'
            )
        file = self._annotations(part)
        source = f'data.root={self.root!r}: {file.name}'
        groups = stored_groups([file], self.cache_dir, lambda: read_coco(file, source))
        there = {name: f'{folder.relative_to(root).as_posix()}/{name}' for name in images_in(folder)}
        found = CaptionGroups(groups, there, folder, source, _USUAL)
        image, caption = found.pairs(1 if self.captions == 'one' else None, self.caption_seed)
        return PairTable(image, caption, opener=FolderImages(root))

    def _folder(self, part: Part) -> Path | None:
        folders = (Path(self.root, place, f'{part}{self.year}') for place in ('', 'images'))
        return next((folder for folder in folders if folder.is_dir()), None)

    def _annotations(self, part: Part) -> Path:
        name = f'captions_{part}{self.year}.json'
        places = [Path(self.root, folder, name) for folder in ('annotations', '')]
        if found := next((place for place in places if place.is_file()), None):
            return found
        raise UsageError(
            f'data.root={self.root!r} holds no annotations/{name}: unpack '
            f'annotations_trainval{self.year}.zip there, see docs/data.md.'
        )


def read_coco(file: Path, source: str) -> Iterator[Annotated]:
    """Images and their captions, both in the order of the file; captions of no image last.

    Raises:
        UsageError: If the file is not one of COCO's captions.
    """
    names: dict[int, str] = {}
    captions: dict[int, list[str]] = {}
    for key, item in json_items(file, source):
        if key == 'images':
            names[field(item, 'id', int, source)] = field(item, 'file_name', str, source)
        elif key == 'annotations':
            captions.setdefault(field(item, 'image_id', int, source), []).append(field(item, 'caption', str, source))
    if not names or not captions:
        raise UsageError(f"{source} lacks 'images' or 'annotations': it is not the published file, see docs/data.md.")
    yield from ((name, captions.pop(number, [])) for number, name in names.items())
    yield from ((None, strays) for strays in captions.values())
