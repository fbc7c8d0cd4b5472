"""Photos of people in one folder for each person, as in PubFig (Kumar et al., 2009), captioned with their names."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.files.class_folders import list_images_by_class, read_class_names
from datamodules.files.reading import clean_captions, require_path
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.draws import bits
from datamodules.rows.subsets import random_rows_per_group
from datamodules.rows.table import PairTable
from datamodules.text.prompts import check_templates, fill_templates
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

NAME_TEMPLATES = (  # MEM does not publish the templates of its face captions
    'a photo of {}.',
    'a picture of {}.',
    'a portrait of {}.',
    'a close-up photo of {}.',
    'a photo of the face of {}.',
    'a photo that shows {}.',
    'this is {}.',
    '{} in a photo.',
)


class NamedFolders(PairsDataModule):
    """Photos of people in ``<root>/<first name>_<last name>/*.jpg``; captions are templates filled with the name.

    Underscores in a folder's name become spaces. Each person is a class, numbered in the order of the folders, so
    that held-out photos tell how many people are recognized. To train on names other than the true ones, put
    ``classes.tsv`` beside ``root``, with ``<folder><tab><name>`` in each line, or list ``class_names``.

    Args:
        root: Folder that contains one folder of photos for each person, ``<first name>_<last name>/*.jpg``.
        caption_templates: Captions with one ``{}`` for the name, drawn at random for each photo. Defaults to eight
            plain ones, such as ``a photo of {}.``.
        caption_seed: Seed that draws the template of each photo.
        heldout_photos: Number of photos of each person to hold out, drawn at random. People with fewer photos, or
            just as many, keep all of them in training.
        heldout_seed: Seed that draws the held-out photos.
        **kwargs: Arguments of :class:`PairsDataModule`. ``templates`` defaults to the caption templates.

    Raises:
        UsageError: If a template has no ``{}`` or the number of held-out photos is negative.
    """

    def __init__(
        self,
        root: str,
        caption_templates: list[str] | None = None,
        caption_seed: int = 0,
        heldout_photos: int = 1,
        heldout_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        templates = NAME_TEMPLATES if caption_templates is None else caption_templates
        self.caption_templates = check_templates(templates, 'data.caption_templates')
        if heldout_photos < 0:
            raise UsageError(f'data.heldout_photos={heldout_photos} must be at least 0.')
        if kwargs.get('templates') is None:
            self.templates = self.caption_templates
        self.root, self.caption_seed = root, caption_seed
        self.heldout_photos, self.heldout_seed = heldout_photos, heldout_seed

    def load_table(self) -> PairTable:
        """Returns the photos that are not held out, in the order of people and files."""
        return self._photos.take(np.setdiff1d(np.arange(len(self._photos)), self._heldout_rows))

    def load_heldout(self) -> PairTable | None:
        """Returns the held-out photos, if there are any."""
        return self._photos.take(self._heldout_rows) if len(self._heldout_rows) else None

    @cached_property
    def _photos(self) -> PairTable:
        root = require_path(self.root, 'data.root')
        if not root.is_dir():
            raise UsageError(
                f'data.root={self.root!r} is a file: name the folder that contains one folder for each person.'
            )
        try:
            people = read_class_names(root)
            photos, label = list_images_by_class(root, list(people))
        except UsageError as error:
            raise UsageError(
                f'data.root={self.root!r} must contain one folder of photos for each person: {error}'
            ) from error
        names = self._choose_names(list(people.values()))
        captions = [fill_templates(name, self.caption_templates) for name in names]
        choice = bits(len(label), self.caption_seed) % np.uint64(len(self.caption_templates))
        chosen = [captions[person][template] for person, template in zip(label, choice, strict=True)]
        chosen = clean_captions(pa.array(chosen, pa.string()))
        return PairTable(photos, chosen, label, names, opener=FolderImages(root))

    def _choose_names(self, folder_names: list[str]) -> tuple[str, ...]:
        names = tuple(folder_names if isinstance(self.class_names, str) else self.class_names)
        if len(names) != len(folder_names):
            raise UsageError(f'data.class_names must name the {len(folder_names)} people, in order; got {len(names)}.')
        return names

    @cached_property
    def _heldout_rows(self) -> np.ndarray:
        """Rows of the held-out photos, ascending, int64; none of people who would have no photo left to train on."""
        photos = np.bincount(self._photos.label, minlength=len(self._photos.classes))
        few = photos <= self.heldout_photos
        if self.heldout_photos and (count := int((few & (photos > 0)).sum())):
            log.warning(
                'data.root=%r: %d of %d people have at most %d photos: all are trained on, none is held out',
                self.root, count, len(photos), self.heldout_photos,
            )  # fmt: skip
        rows = random_rows_per_group(photos, self.heldout_photos, self.heldout_seed)
        return rows[~few[self._photos.label[rows]]]
