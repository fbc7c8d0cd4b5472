"""Flickr8k (Hodosh et al., 2013) and Flickr30k (Young et al., 2014): five captions for each photo."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.files.json_items import field, json_items
from datamodules.files.reading import existing, first_line, images_in, read_columns
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from datamodules.text.caption_groups import SCHEMA, CaptionGroups, grouped
from datamodules.usage_error import UsageError

Split = Literal['train', 'val', 'test']
_USUAL = 5  # captions of an image
_LISTS: dict[str, tuple[str, ...]] = {  # names of images, one in each line: Flickr8k's own, and Flickr30k Entities'
    'train': ('Flickr_8k.trainImages.txt', 'train.txt'),
    'val': ('Flickr_8k.devImages.txt', 'val.txt'),
    'test': ('Flickr_8k.testImages.txt', 'test.txt'),
}
_TOKEN = re.compile(r'(?P<image>[^\t]+)#\d+\t(?P<caption>.*)')  # not up to the first sign: a.jpg.1#0 is another image
_BARS = re.compile(r'(?P<image>[^|]+)\|\s*\d+\s*\|?(?P<caption>.*)')  # one published line lacks its second bar
_IMAGE, _CAPTION = ('image', 'image_name'), ('caption', 'comment')  # columns


class Annotations(NamedTuple):
    """Captions by the file of their image and, if the annotation file says so, the split of each image."""

    captions: dict[str, list[str]]
    split: dict[str, str]


class Flickr(PairsDataModule):
    """What Flickr8k and Flickr30k have in common; name one of these as the data.

    Captions come from a text of lines ``<image>#<number><tab><caption>``, from a table with columns ``image`` or
    ``image_name`` and ``caption`` or ``comment``, or from Karpathy's JSON. The last says which images are for
    training; for the others, lists of images do, which lie beside them: ``Flickr_8k.trainImages.txt`` and so on, or
    ``train.txt``, ``val.txt`` and ``test.txt``. Rows are in the order of the captions.

    Args:
        root: Folder of the data set.
        split: Images to train on: ``train``, ``val``, ``test``, or ``all`` of them, for which no list is needed.
        heldout_split: Images that are held out; ``null`` for none.
        captions: ``all``, each a pair of its own, or ``one`` of each image, drawn at random.
        caption_seed: Seed of that draw.
        annotations: File of captions; the first of the usual names in ``root`` if ``None``.
        image_folder: Folder of images; the first of the usual names in ``root`` if ``None``.
        **kwargs: As for :class:`PairsDataModule`.

    Raises:
        UsageError: If there is no such split or choice of captions, or what is held out is trained on, too.
    """

    known_annotations: ClassVar[tuple[str, ...]] = ()
    known_folders: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        root: str,
        split: Literal['train', 'val', 'test', 'all'] = 'train',
        heldout_split: Split | None = 'val',
        captions: Literal['one', 'all'] = 'all',
        caption_seed: int = 0,
        annotations: str | None = None,
        image_folder: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_splits(split, heldout_split)
        if captions not in ('one', 'all'):
            raise UsageError(f'data.captions={captions!r} must be one or all.')
        self.root, self.split, self.heldout_split = root, split, heldout_split
        self.captions, self.caption_seed = captions, caption_seed
        self.annotations, self.image_folder = annotations, image_folder

    def load_table(self) -> PairTable:
        """The pairs of the split to train on."""
        return self._pairs(self.split)

    def load_heldout(self) -> PairTable | None:
        """The pairs of the split that is held out, if any is."""
        return None if self.heldout_split is None else self._pairs(self.heldout_split)

    def _pairs(self, split: str) -> PairTable:
        keep = None
        if split != 'all':
            splits = self._read.split or _listed(self._file.parent, split, self._source)
            keep = np.array([splits.get(str(name)) == split for name in self._groups.names])
            if not keep.any():
                raise UsageError(f'{self._source} has no image of the split {split!r}: choose another data.split.')
        count = 1 if self.captions == 'one' else None
        return PairTable(*self._groups.pairs(count, self.caption_seed, keep), opener=FolderImages(self._folder))

    @cached_property
    def _groups(self) -> CaptionGroups:
        batches = grouped(self._read.captions.items())
        there = {name: name for name in images_in(self._folder)}
        return CaptionGroups(pa.Table.from_batches(batches, SCHEMA), there, self._folder, self._source, _USUAL)

    @cached_property
    def _read(self) -> Annotations:
        return read_flickr(self._file, self._source)

    @property
    def _source(self) -> str:
        named = f'data.root={self.root!r}: {self._file.name}'
        return named if self.annotations is None else f'data.annotations={self.annotations!r}'

    @cached_property
    def _file(self) -> Path:
        if self.annotations is not None:
            return existing(self.annotations, 'data.annotations')
        return self._first(self.known_annotations, 'data.annotations to the file of captions')

    @cached_property
    def _folder(self) -> Path:
        if self.image_folder is not None:
            return existing(self.image_folder, 'data.image_folder')
        return self._first(self.known_folders, 'data.image_folder to the folder of images')

    def _first(self, names: tuple[str, ...], remedy: str) -> Path:
        root = existing(self.root, 'data.root')
        if found := next((root / name for name in names if (root / name).exists()), None):
            return found
        raise UsageError(f'data.root={self.root!r} holds none of {", ".join(names)}: set {remedy}.')


class Flickr8k(Flickr):
    """Flickr8k: 8,091 photos, of which 6,000 are for training and 1,000 each for validation and test."""

    known_annotations = ('Flickr8k.token.txt', 'captions.txt', 'dataset_flickr8k.json')
    known_folders = ('Flicker8k_Dataset', 'Flickr8k_Dataset', 'Images', 'images')


class Flickr30k(Flickr):
    """Flickr30k: 31,783 photos, of which Karpathy's JSON gives 29,000 to training; the authors give no split."""

    known_annotations = ('dataset_flickr30k.json', 'results_20130124.token', 'captions.txt', 'results.csv')
    known_folders = ('flickr30k-images', 'flickr30k_images/flickr30k_images', 'flickr30k_images', 'Images', 'images')


def _check_splits(split: str, heldout: str | None) -> None:
    if split not in (*_LISTS, 'all') or heldout not in (*_LISTS, None):
        raise UsageError(
            f'data.split={split!r} must be train, val, test or all, and data.heldout_split={heldout!r} one of the '
            f'first three or null.'
        )
    if heldout is not None and split in (heldout, 'all'):
        raise UsageError(
            f'data.heldout_split={heldout!r} is trained on, too, with data.split={split!r}: choose another, or null.'
        )


# --- captions -------------------------------------------------------------------------------------------------------


def read_flickr(file: Path, source: str) -> Annotations:
    """Captions in any of the published forms, images in the order in which they first come.

    Raises:
        UsageError: If the file has another form, or a line of it has.
    """
    if file.suffix == '.json':
        return _from_karpathy(file, source)
    header = first_line(file, ',', source)
    if '|' in header[0]:
        return _from_lines(file, _BARS, source, skip=1)
    if _TOKEN.match(','.join(header)):
        return _from_lines(file, _TOKEN, source)
    return _from_table(file, header, source)


def _from_karpathy(file: Path, source: str) -> Annotations:
    found = Annotations({}, {})
    for key, item in json_items(file, source):
        if key == 'images':
            name = field(item, 'filename', str, source)
            sentences = field(item, 'sentences', list, source)
            found.captions.setdefault(name, []).extend(field(one, 'raw', str, source) for one in sentences)
            found.split[name] = field(item, 'split', str, source)
    return found


def _from_lines(file: Path, form: re.Pattern[str], source: str, skip: int = 0) -> Annotations:
    captions: dict[str, list[str]] = {}
    with file.open(encoding='utf-8-sig', errors='replace') as lines:
        for number, line in enumerate(lines, 1):
            if number <= skip or not line.strip():
                continue
            if (found := form.match(line)) is None:
                raise UsageError(f'{source} has no image, number and caption in line {number}, {line.strip()[:60]!r}.')
            captions.setdefault(found['image'].strip(), []).append(found['caption'])
    return Annotations(captions, {})


def _from_table(file: Path, header: list[str], source: str) -> Annotations:
    image, caption = (next((name for name in names if name in header), None) for names in (_IMAGE, _CAPTION))
    if image is None or caption is None:
        raise UsageError(
            f'{source} is in none of the published forms: a table needs columns image and caption in its first line, '
            f'and has {", ".join(map(repr, header))}.'
        )
    table = read_columns(file, ',', [image, caption], source)
    captions: dict[str, list[str]] = {}
    for name, text in zip(table[image].to_pylist(), table[caption].to_pylist(), strict=True):
        captions.setdefault(name, []).append(text)
    return Annotations(captions, {})


# --- splits ---------------------------------------------------------------------------------------------------------


def _listed(folder: Path, split: str, source: str) -> Mapping[str, str]:
    """The images of a split by the list beside the captions; names may lack their suffix."""
    file = next((folder / name for name in _LISTS[split] if (folder / name).is_file()), None)
    if file is None:
        raise UsageError(
            f'{source} does not say which images are of the split {split!r}, and no {" or ".join(_LISTS[split])} lies '
            f"beside it: add that, take Karpathy's JSON, or set data.split: all and data.heldout_split: null."
        )
    names = (line.strip() for line in file.read_text(encoding='utf-8-sig', errors='replace').splitlines())
    return {name if name.endswith('.jpg') else f'{name}.jpg': split for name in names if name}
