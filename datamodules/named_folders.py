"""Photos of people in a folder for each person, as PubFig (Kumar et al., 2009), captioned with their names."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.files.class_folders import class_folders, images_by_class
from datamodules.files.reading import cleaned, existing
from datamodules.pairs import PairsDataModule
from datamodules.pictures.images import FolderImages
from datamodules.rows.draws import bits
from datamodules.rows.subsets import rows_of_groups
from datamodules.rows.table import PairTable
from datamodules.text.prompts import prompts
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

NAME_TEMPLATES = (  # those of MEM's faces are not published
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
    """A folder of photos for each person, called like them: pairs of a photo and a template with the name.

    People are numbered in the order of their folders, ``<root>/<first name>_<last name>/*.jpg``, with spaces for
    underscores. To train on other names than the true ones, put ``classes.tsv`` beside ``root``, with
    ``<folder><tab><name>`` in each line, or list ``class_names``. Each person is a class, so that held-out photos tell
    how many are recognized.

    Args:
        root: Folder that holds the people's.
        caption_templates: Captions with one ``{}`` each, drawn for each photo; eight plain ones if ``None``.
        caption_seed: Seed of that draw.
        heldout_photos: Photos of each person to hold out, drawn at random. Who has no more keeps them all.
        heldout_seed: Seed of that draw.
        **kwargs: As for :class:`PairsDataModule`, but ``templates`` are the captions' if ``None``.

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
        self.caption_templates = NAME_TEMPLATES if caption_templates is None else tuple(caption_templates)
        if not self.caption_templates or any('{}' not in template for template in self.caption_templates):
            raise UsageError('data.caption_templates must be captions with {} where the name goes, at least one.')
        if heldout_photos < 0:
            raise UsageError(f'data.heldout_photos={heldout_photos} must be at least 0.')
        if kwargs.get('templates') is None:
            self.templates = self.caption_templates
        self.root, self.caption_seed = root, caption_seed
        self.heldout_photos, self.heldout_seed = heldout_photos, heldout_seed

    def load_table(self) -> PairTable:
        """The photos that are not held out, in the order of people and of files."""
        return self._photos.take(np.setdiff1d(np.arange(len(self._photos)), self._heldout_rows))

    def load_heldout(self) -> PairTable | None:
        """The photos that are held out, if any are."""
        return self._photos.take(self._heldout_rows) if len(self._heldout_rows) else None

    @cached_property
    def _photos(self) -> PairTable:
        root = existing(self.root, 'data.root')
        if not root.is_dir():
            raise UsageError(f'data.root={self.root!r} is a file: name the folder that holds a folder for each person.')
        try:
            people = class_folders(root)
            photos, label = images_by_class(root, list(people))
        except UsageError as error:
            raise UsageError(f'data.root={self.root!r} is to hold a folder for each person: {error}') from error
        names = self._names(list(people.values()))
        captions = [prompts(name, self.caption_templates) for name in names]
        choice = bits(len(label), self.caption_seed) % np.uint64(len(self.caption_templates))
        chosen = [captions[person][template] for person, template in zip(label, choice, strict=True)]
        return PairTable(photos, cleaned(pa.array(chosen, pa.string())), label, names, opener=FolderImages(root))

    def _names(self, found: list[str]) -> tuple[str, ...]:
        names = tuple(found if isinstance(self.class_names, str) else self.class_names)
        if len(names) != len(found):
            raise UsageError(f'data.class_names must name the {len(found)} people, in order; got {len(names)}.')
        return names

    @cached_property
    def _heldout_rows(self) -> np.ndarray:
        """Rows of the photos that are held out, ascending, int64; people without any left to train on have none."""
        photos = np.bincount(self._photos.label, minlength=len(self._photos.classes))
        few = photos <= self.heldout_photos
        if self.heldout_photos and (count := int((few & (photos > 0)).sum())):
            log.warning(
                'data.root=%r: %d of %d people have at most %d photos, which are trained on and not held out',
                self.root, count, len(photos), self.heldout_photos,
            )  # fmt: skip
        rows = rows_of_groups(photos, self.heldout_photos, self.heldout_seed)
        return rows[~few[self._photos.label[rows]]]
