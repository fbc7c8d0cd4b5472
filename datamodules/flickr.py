"""Flickr8k (Hodosh et al., 2013) and Flickr30k (Young et al., 2014): five captions for each photo."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa

from datamodules.files.json_items import json_items, read_list, read_text
from datamodules.files.left_out import LeftOut
from datamodules.files.quoting import quote
from datamodules.files.reading import image_stem, list_images, require_folder, require_path
from datamodules.files.text_lines import UNDECODABLE, read_text_lines
from datamodules.files.text_tables import describe_names, read_columns, read_layout
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from datamodules.text.caption_groups import SCHEMA, CaptionGroups, group_captions
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

Split = Literal['train', 'val', 'test']
_CAPTIONS_PER_IMAGE = 5
SPLIT_LISTS: dict[str, tuple[str, ...]] = {  # one image in each line: Flickr8k's lists, and Flickr30k Entities'
    'train': ('Flickr_8k.trainImages.txt', 'train.txt'),
    'val': ('Flickr_8k.devImages.txt', 'val.txt', 'dev.txt'),
    'test': ('Flickr_8k.testImages.txt', 'test.txt'),
}
_TOKEN_LINE = re.compile(r'(?P<image>[^\t]+)#\d+\t(?P<caption>.*)')
_BAR_LINE = re.compile(r'(?P<image>[^|]+)\|\s*\d+\s*\|?(?P<caption>.*)')  # one published line lacks its second bar
_CAPTION_NUMBER = re.compile(r'#\d+$')
_IMAGE_COLUMNS, _CAPTION_COLUMNS = ('image', 'image_name'), ('caption', 'comment')
_PROBED_LINES = 10  # which tell the form of a file


class Annotations(NamedTuple):
    """Captions of each image file and, if the annotation file gives it, the split of each image."""

    captions: dict[str, list[str | None]]
    split: dict[str, str]


class Flickr(PairsDataModule):
    """What Flickr8k and Flickr30k share: a folder of photos, a caption file and, unless it is JSON, lists of splits.

    Use :class:`Flickr8k` or :class:`Flickr30k`. The caption file has one of these forms:

    - lines ``<image>#<number><tab><caption>``;
    - a table with columns ``image`` or ``image_name`` and ``caption`` or ``comment``, separated by commas or bars;
    - Karpathy's JSON, which also gives the split of each image.

    Without Karpathy's JSON, lists of images beside the caption file give the splits: ``Flickr_8k.trainImages.txt``
    and so on, or ``train.txt``, ``val.txt`` or ``dev.txt``, and ``test.txt``. Rows are in the order of the captions.

    Args:
        root: Folder with the caption file (``Flickr8k.token.txt``, ``results_20130124.token``, ``captions.txt``,
            ``results.csv`` or Karpathy's ``dataset_flickr{8k,30k}.json``) and the folder of photos
            (``Flicker8k_Dataset``, ``flickr30k-images`` or ``Images``). Karpathy's JSON gives the splits; otherwise
            put ``Flickr_8k.{train,dev,test}Images.txt`` or ``{train,val,test}.txt`` beside the captions, with the name
            of an image in each line; its suffix may be missing.
        split: Images to train on: ``train``, ``val``, ``test``, or ``all``, which needs no list of splits.
        heldout_split: Images to hold out: ``train``, ``val``, ``test``, or ``null`` for none.
        captions: ``all`` captions of the images to train on, each of which becomes a pair, or ``one`` caption of each
            image, drawn at random. Held-out images have all of theirs.
        caption_seed: Seed that draws one caption of each image.
        annotations: Caption file. Defaults to the first of the usual names in ``root``.
        image_folder: Folder of photos. Defaults to the first of the usual names in ``root``.
        **kwargs: Arguments of :class:`PairsDataModule`.

    Raises:
        UsageError: If a split or ``captions`` has another value, or held-out images would also be trained on.
    """

    known_annotations: ClassVar[tuple[str, ...]] = ()
    known_folders: ClassVar[tuple[str, ...]] = ()
    token_file: ClassVar[str] = ''  # the usual name of captions in lines

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
        """Reads the pairs of the training split."""
        return self._pairs(self.split, 1 if self.captions == 'one' else None)

    def load_heldout(self) -> PairTable | None:
        """Reads the pairs of the held-out split, if there is one."""
        return None if self.heldout_split is None else self._pairs(self.heldout_split, None)

    def _pairs(self, split: str, count: int | None) -> PairTable:
        keep = None if split == 'all' else self._is_in_split(split)
        images = FolderImages(self._folder, self.root if self.image_folder is None else self.image_folder)
        return PairTable(*self._groups.pairs(count, self.caption_seed, keep), opener=images)

    def _is_in_split(self, split: str) -> np.ndarray:
        names = [str(name) for name in self._groups.names]
        splits = self._annotations.split
        listed = None if splits else _read_split_list(self._file.parent, split, self._source)
        keep = np.array([splits.get(name) == split for name in names] if listed is None else are_listed(names, listed))
        if not keep.any():
            raise UsageError(f'{self._source} has no image of the split {split!r}{_describe_list(listed, names)}.')
        return keep

    @cached_property
    def _groups(self) -> CaptionGroups:
        groups = pa.Table.from_batches(group_captions(self._annotations.captions.items()), SCHEMA)
        references = {name: name for name in list_images(self._folder)}
        return CaptionGroups(groups, references, self._folder, self._source, _CAPTIONS_PER_IMAGE)

    @cached_property
    def _annotations(self) -> Annotations:
        return read_flickr(self._file, self._source)

    @property
    def _source(self) -> str:
        if self.annotations is None:
            return f'data.root={self.root!r}: {self._file.name}'
        return f'data.annotations={self.annotations!r}'

    @cached_property
    def _file(self) -> Path:
        if self.annotations is not None:
            return require_path(self.annotations, 'data.annotations')
        return self._find(self.known_annotations, 'data.annotations to the file of captions')

    @cached_property
    def _folder(self) -> Path:
        if self.image_folder is not None:
            return require_folder(self.image_folder, 'data.image_folder')
        folder = self._find(self.known_folders, 'data.image_folder to the folder of images')
        return require_folder(folder, 'data.image_folder')

    def _find(self, names: tuple[str, ...], remedy: str) -> Path:
        root = require_path(self.root, 'data.root')
        if path := next((root / name for name in names if (root / name).exists()), None):
            return path
        raise UsageError(f'data.root={self.root!r} contains none of {", ".join(names)}: set {remedy}.')


class Flickr8k(Flickr):
    """Flickr8k: ``Flickr8k.token.txt``, its lists of splits and ``Flicker8k_Dataset/`` with 8,091 photos in one folder.

    Of the photos, 6,000 are for training and 1,000 each for validation and test. Other downloads are read as well:
    ``captions.txt`` or ``dataset_flickr8k.json`` for the captions, ``Flickr8k_Dataset`` or ``Images`` for the photos.
    """

    token_file = 'Flickr8k.token.txt'
    known_annotations = (token_file, 'captions.txt', 'dataset_flickr8k.json')
    known_folders = ('Flicker8k_Dataset', 'Flickr8k_Dataset', 'Images', 'images')


class Flickr30k(Flickr):
    """Flickr30k: ``dataset_flickr30k.json`` and ``flickr30k-images/`` with 31,783 photos in one folder.

    The authors give no split; Karpathy's JSON takes 29,000 photos for training. Other downloads are read as well:
    ``results_20130124.token``, ``captions.txt`` or ``results.csv`` for the captions, ``flickr30k_images`` or
    ``Images`` for the photos.
    """

    token_file = 'results_20130124.token'
    known_annotations = ('dataset_flickr30k.json', token_file, 'captions.txt', 'results.csv')
    known_folders = ('flickr30k-images', 'flickr30k_images/flickr30k_images', 'flickr30k_images', 'Images', 'images')


def _check_splits(split: str, heldout: str | None) -> None:
    if split not in (*SPLIT_LISTS, 'all') or heldout not in (*SPLIT_LISTS, None):
        raise UsageError(
            f'data.split={split!r} must be train, val, test or all, and data.heldout_split={heldout!r} one of the '
            f'first three or null.'
        )
    if heldout is not None and split in (heldout, 'all'):
        raise UsageError(
            f'data.heldout_split={heldout!r} is also trained on with data.split={split!r}: choose another, or null.'
        )


# --- captions -------------------------------------------------------------------------------------------------------


def read_flickr(file: Path, source: str) -> Annotations:
    """Reads captions in any of the published forms, images in the order of their first caption.

    Raises:
        UsageError: If the file, or a line of it, has another form.
    """
    if file.suffix == '.json':
        return _read_karpathy(file, source)
    head = list(islice(read_text_lines(file, source), _PROBED_LINES))
    tokens = sum(_TOKEN_LINE.fullmatch(line) is not None for line in head)
    bars = sum('|' in line.partition(',')[0] for line in head)
    if tokens > bars:
        return _read_lines(file, _TOKEN_LINE, source)
    if bars:
        return _read_lines(file, _BAR_LINE, source, skip=1)
    return _read_table(file, source)


def _read_karpathy(file: Path, source: str) -> Annotations:
    annotations, left_out, images = Annotations({}, {}), LeftOut('images'), 0
    others: dict[str, str] = {}  # images whose split is none of Karpathy's, or that are in a second one
    for images, item in enumerate((item for key, item in json_items(file, source) if key == 'images'), 1):
        name, split = read_text(item, 'filename'), read_text(item, 'split')
        if name is None or split is None:
            left_out.add('have no filename or no split', f'image {images}')
            continue
        name = _file_name(name)
        captions = [read_text(sentence, 'raw') for sentence in read_list(item, 'sentences')]
        annotations.captions.setdefault(name, []).extend(captions)
        if annotations.split.setdefault(name, split) != split or split not in get_args(Split):
            others[name] = split
    if not any(any(captions) for captions in annotations.captions.values()):
        raise UsageError(
            f"{source} lacks 'images' with filename, split and sentences: it is not Karpathy's file, see docs/data.md."
        )
    left_out.log(source, images)
    if others:
        name, split = next(iter(others.items()))
        log.warning(
            '%s: %d of %d images are in no split of train, val and test, or in a second one, which does not count; '
            'first: %s in %s', source, len(others), images, quote(name), quote(split),
        )  # fmt: skip
    return annotations


def _read_lines(file: Path, form: re.Pattern[str], source: str, skip: int = 0) -> Annotations:
    """Reads one caption a line; the image is all before the last ``#``, as ``a.jpg.1#0`` is not of ``a.jpg``."""
    captions: dict[str, list[str | None]] = {}
    left_out, lines = LeftOut('lines'), 0
    for number, line in enumerate(read_text_lines(file, source), 1):
        if number <= skip or not line.strip():
            continue
        lines += 1
        if UNDECODABLE in line:
            left_out.add('are not UTF-8', f'line {number}')
        elif match := form.fullmatch(line):
            captions.setdefault(_file_name(match['image']), []).append(match['caption'])
        else:
            left_out.add('have no image, number and caption', f'line {number}, {line.strip()[:60]!r}')
    if not captions:
        raise UsageError(f'{source} has no caption: {left_out.describe(lines) or "it is empty"}.')
    left_out.log(source, lines)
    return Annotations(captions, {})


def _read_table(file: Path, source: str) -> Annotations:
    layout = read_layout(file, source, ',')
    image = next((name for name in _IMAGE_COLUMNS if name in layout.names), None)
    caption = next((name for name in _CAPTION_COLUMNS if name in layout.names), None)
    if image is None or caption is None:
        raise UsageError(
            f'{source} is in none of the published forms: a table needs columns image and caption in its first line, '
            f'and has {describe_names(layout.names)}.'
        )
    table = read_columns(file, layout, [image, caption], source)
    captions: dict[str, list[str | None]] = {}
    for name, text in zip(table[image].to_pylist(), table[caption].to_pylist(), strict=True):
        captions.setdefault(_file_name(name), []).append(text)
    return Annotations(captions, {})


def _file_name(text: str) -> str:
    """Returns the name of an image without folders, quotes and the number of a caption.

    Example:
        >>> [_file_name(text) for text in ('Images/a.jpg', '"a.jpg"', 'a.jpg#0', 'a.jpg.1#0')]
        ['a.jpg', 'a.jpg', 'a.jpg', 'a.jpg.1']
    """
    name = _CAPTION_NUMBER.sub('', text.strip().strip('"\''))
    return re.split(r'[/\\]', name)[-1].strip()


# --- splits ---------------------------------------------------------------------------------------------------------


def _read_split_list(folder: Path, split: str, source: str) -> set[str]:
    """Reads the list of a split's images beside the captions."""
    file = next((folder / name for name in SPLIT_LISTS[split] if (folder / name).is_file()), None)
    if file is None:
        raise UsageError(
            f'{source} does not say which images are in the split {split!r}, and there is no '
            f"{' or '.join(SPLIT_LISTS[split])} beside it: add that list, use Karpathy's JSON, or set data.split: all "
            f'and data.heldout_split: null.'
        )
    return {name for line in read_text_lines(file, f'{source}, {file.name}') if (name := _file_name(line))}


def _describe_list(listed: set[str] | None, names: Sequence[str]) -> str:
    """Says what a list without any of the images has in it, and what to do."""
    if listed is None:
        return ': choose another data.split'
    entry = f'names {quote(min(listed))}' if listed else 'is empty'
    return f', whose list {entry}: list images by the names that captions give them, such as {quote(names[0])}'


def are_listed(names: Sequence[str], listed: set[str]) -> list[bool]:
    """Tells which images a list names, with or without their suffix, or with that of another format.

    Example:
        >>> are_listed(['a.jpg', 'b.JPG', 'c.png', 'd.jpg'], {'a.jpg', 'b', 'c.jpg'})
        [True, True, True, False]
    """
    stems = {image_stem(name) for name in listed - set(names)}
    return [name in listed or image_stem(name) in stems for name in names]
