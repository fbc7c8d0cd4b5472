"""MS-COCO captions (Chen et al., 2015), releases of 2014 and 2017, as published."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from datamodules.files.json_items import json_items, read_id, read_text
from datamodules.files.reading import list_images, require_path
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from datamodules.text.caption_groups import AnnotatedImage, CaptionGroups, stored_groups
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

Part = Literal['train', 'val']
_CAPTIONS_PER_IMAGE = 5  # a few images have six or seven


class COCO(PairsDataModule):
    """MS-COCO captions: ``annotations/captions_train2014.json`` and the images in ``train2014`` under one folder.

    ``root`` contains ``annotations/captions_train2014.json`` and ``annotations/captions_val2014.json``. The images
    lie in ``train2014`` and ``val2014``, either in ``root`` or in ``root/images``. The release of 2017 has the same
    layout with its year in the names. Rows are in the order of the list ``images`` of the annotation file. Images
    that are missing on disk are left out.

    Args:
        root: Folder with ``annotations/captions_{train,val}2014.json`` and the image folders ``train2014`` and
            ``val2014``, which may also lie in ``images/``. Replace 2014 by 2017 for the later release.
        year: Release: 2014 (80,000 training images, as in SafeCLIP's paper) or 2017 (118,000).
        captions: ``one`` caption of each image, drawn at random, as in SafeCLIP's paper; or ``all``, each of which
            becomes a pair.
        caption_seed: Seed that draws one caption of each image.
        **kwargs: Arguments of :class:`PairsDataModule`.

    Raises:
        UsageError: If ``year`` or ``captions`` has another value.
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
        """Reads the pairs of the training images."""
        return self._read('train')

    def load_heldout(self) -> PairTable | None:
        """Reads the pairs of the validation images, if their folder exists."""
        if self._folder('val') is None:
            log.warning('data.root=%r has no folder val%d: nothing is held out', self.root, self.year)
            return None
        return self._read('val')

    def _read(self, part: Part) -> PairTable:
        root, folder = require_path(self.root, 'data.root'), self._folder(part)
        if folder is None:
            raise UsageError(
                f'data.root={self.root!r} has no folder {part}{self.year}: unpack {part}{self.year}.zip there.'
            )
        file = self._annotation_file(part)
        source = f'data.root={self.root!r}: {file.name}'
        groups = stored_groups([file], self.cache_dir, lambda: read_coco(file, source))
        references = {name: f'{folder.relative_to(root).as_posix()}/{name}' for name in list_images(folder)}
        images = CaptionGroups(groups, references, folder, source, _CAPTIONS_PER_IMAGE)
        image, caption = images.pairs(1 if self.captions == 'one' else None, self.caption_seed)
        return PairTable(image, caption, opener=FolderImages(root))

    def _folder(self, part: Part) -> Path | None:
        folders = (Path(self.root, parent, f'{part}{self.year}') for parent in ('', 'images'))
        return next((folder for folder in folders if folder.is_dir()), None)

    def _annotation_file(self, part: Part) -> Path:
        name = f'captions_{part}{self.year}.json'
        candidates = [Path(self.root, folder, name) for folder in ('annotations', '')]
        if file := next((path for path in candidates if path.is_file()), None):
            return file
        raise UsageError(
            f'data.root={self.root!r} has no annotations/{name}: unpack '
            f'annotations_trainval{self.year}.zip there, see docs/data.md.'
        )


def read_coco(file: Path, source: str) -> Iterator[AnnotatedImage]:
    """Yields images with their captions, both in the order of the file, then what cannot be used.

    That is the captions of images that the file does not list, and images without a name or with the number of another.

    Raises:
        UsageError: If the file is not a caption file of COCO.
    """
    names: dict[int | str, str] = {}
    captions: dict[int | str | None, list[str | None]] = {}
    unusable = 0
    for key, item in json_items(file, source):
        if key == 'images':
            number, name = read_id(item, 'id'), read_text(item, 'file_name')
            if number is None or not name or number in names:
                unusable += 1
            else:
                names[number] = PureWindowsPath(name).name  # with slashes of either kind
        elif key == 'annotations':
            captions.setdefault(read_id(item, 'image_id'), []).append(read_text(item, 'caption'))
    if not names or not any(any(own) for own in captions.values()):
        raise UsageError(
            f"{source} lacks 'images' with id and file_name, or 'annotations' with image_id and caption: it is not the "
            f'published file, see docs/data.md.'
        )
    yield from ((name, captions.pop(number, [])) for number, name in names.items())
    yield from ((None, strays) for strays in captions.values())
    yield from ((None, []) for _ in range(unusable))
