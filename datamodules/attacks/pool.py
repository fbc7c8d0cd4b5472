"""What attacks choose from: clean pairs, held-out pairs, class names, and what earlier attacks have left."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.rows.table import UNKNOWN, PairTable
from datamodules.rows.table import Origin as Origin
from datamodules.text.class_search import ClassSearch, mentions
from datamodules.text.prompts import imagenet_templates
from datamodules.usage_error import UsageError

_FEW = 4  # classes searched for one by one; who asks for more may ask for hundreds


class Poison(NamedTuple):
    """One poisoned pair.

    Attributes:
        source: Row of the image in its table of origin.
        origin: Table that the image comes from.
        target: Class that the attack wants it to be taken for, as an index into the pool's classes.
        caption: The pair's caption.
        replaces: Row of the clean table that gives way to the poison, or -1 where the poison is appended.
        other: Row, in the same table, of a second image that the picture is mixed with, or -1 where there is none.
        share: Share of the first image in the mixture, in [0, 1].
    """

    source: int
    origin: Origin
    target: int
    caption: str
    replaces: int = -1
    other: int = -1
    share: float = 1.0


@dataclass
class AttackPool:
    """Everything that an attack may look at. Attacks of one run share it, so that none uses an image of another.

    Images count once, however many rows (captions) they have: an image is taken as a whole, and is of a class if
    any of its rows is.

    Args:
        table: The clean training pairs.
        heldout: Pairs outside the training set, labeled or not.
        classes: Classes that attacks may aim at and a zero-shot classifier answers with.
        templates: Prompts with one ``{}`` each.
        taken: Rows of each table that no further attack may use: earlier attacks' images and replaced rows, and
            whatever else the caller rules out, such as unreadable images.
    """

    table: PairTable
    heldout: PairTable | None
    classes: tuple[str, ...]
    templates: tuple[str, ...] = field(default_factory=imagenet_templates)
    taken: dict[Origin, set[int]] = field(default_factory=lambda: {'train': set(), 'heldout': set()})
    _image_numbers: dict[Origin, np.ndarray] = field(init=False, repr=False, default_factory=dict)
    _found: dict[Origin, dict[str, np.ndarray]] = field(
        init=False, repr=False, default_factory=lambda: {'train': {}, 'heldout': {}}
    )
    _search: dict[Origin, ClassSearch] = field(init=False, repr=False, default_factory=dict)

    def origin(self, origin: Origin) -> PairTable:
        """The table of an origin. Raises ``UsageError`` if it is the held-out one and there is none."""
        if origin == 'train':
            return self.table
        if self.heldout is None:
            raise UsageError('the data has no held-out images to poison: set source: train, or give it a held-out set.')
        return self.heldout

    def index(self, name: str) -> int:
        """Number of a class, found by its name in any case.

        Raises:
            UsageError: If there is no such class, naming the closest ones, or there are two.
        """
        found = [i for i, known in enumerate(self.classes) if known == name]
        found = found or [i for i, known in enumerate(self.classes) if known.casefold() == name.casefold()]
        if len(found) > 1:
            raise UsageError(f'{name!r} is the name of {len(found)} classes, numbers {found}: choose another target.')
        if not found:
            close = difflib.get_close_matches(name, self.classes, n=5, cutoff=0.5) or list(self.classes[:5])
            raise UsageError(
                f'target {name!r} is none of the {len(self.classes)} classes: '
                + (f'did you mean {", ".join(close)}?' if close else 'set class_names of the data, which has none.')
            )
        return found[0]

    def captions_of(self, target: int, origin: Origin = 'train') -> np.ndarray:
        """Rows of a table, the clean training one, whose caption names a class, ascending, int64."""
        return self._naming(origin, self.classes[target])

    def images(self, origin: Origin) -> np.ndarray:
        """The first row of every image of a table, ascending, int64."""
        number = self._numbers(origin)
        first = np.empty(int(number.max()) + 1, np.int64)
        first[number[::-1]] = np.arange(len(number))[::-1]  # of several values for a place the last one stays
        return first

    def allowed(self, origin: Origin, target: int) -> np.ndarray:
        """Images that an attack may use against a class: not taken, and not of that class themselves.

        A labeled image is of the class that its label says. An unlabeled one, and every one of a table whose
        labels do not know the class, is of the class if a caption of it names the class.

        Returns:
            First row of each such image, ascending, int64.
        """
        refused = self._of_class(origin, target)
        refused[list(self.taken[origin])] = True
        images = self.images(origin)
        open_to_use = np.ones(len(images), bool)
        open_to_use[self._numbers(origin)[refused]] = False
        return images[open_to_use]

    def showing(self, origin: Origin, target: int) -> np.ndarray:
        """Images of a class, by their label or else their caption, that no attack has taken; see :meth:`allowed`.

        Returns:
            First row of each such image, ascending, int64.
        """
        images, number = self.images(origin), self._numbers(origin)
        of_class = np.zeros(len(images), bool)
        of_class[number[self._of_class(origin, target)]] = True
        of_class[number[list(self.taken[origin])]] = False
        return images[of_class]

    def untaken(self, origin: Origin, rows: np.ndarray) -> np.ndarray:
        """Those of some rows whose image no attack has taken, one an image, the first: ascending, int64."""
        number = self._numbers(origin)
        rows = rows[~self.of_taken_images(origin)[rows]]
        return np.sort(rows[np.unique(number[rows], return_index=True)[1]])

    def rows_showing(self, origin: Origin, target: int) -> np.ndarray:
        """Rows that show a class, by their label or else their own caption, taken or not: ascending, int64."""
        return np.flatnonzero(self._of_class(origin, target))

    def of_taken_images(self, origin: Origin) -> np.ndarray:
        """Whether a row's image is taken, by whichever of its rows: bool (rows,)."""
        number = self._numbers(origin)
        return np.isin(number, number[list(self.taken[origin])])

    def same_image(self, origin: Origin, rows: Sequence[int]) -> np.ndarray:
        """A number for each row's image, the same for rows of one image, int64."""
        return self._numbers(origin)[list(rows)]

    def labels(self, origin: Origin, rows: np.ndarray) -> np.ndarray:
        """True classes of some rows as indices into ``classes``, int64, ``UNKNOWN`` where there is none."""
        table = self.origin(origin)
        return translated(table.label[rows], table.classes, self.classes)

    def take(self, poisons: Iterable[Poison]) -> None:
        """Keeps further attacks off the images and rows of some poisons."""
        for poison in poisons:
            self.taken[poison.origin].add(poison.source)
            if poison.other >= 0:
                self.taken[poison.origin].add(poison.other)
            if poison.replaces >= 0:
                self.taken['train'].add(poison.replaces)

    def _numbers(self, origin: Origin) -> np.ndarray:
        """Number of each row's image, counted in the order of first appearance, (rows,)."""
        if origin not in self._image_numbers:
            image = self.origin(origin).image
            whole = image.combine_chunks() if isinstance(image, pa.ChunkedArray) else image
            self._image_numbers[origin] = np.asarray(whole.dictionary_encode().indices)
        return self._image_numbers[origin]

    def _naming(self, origin: Origin, name: str) -> np.ndarray:
        """Rows whose caption names a class, ascending, int64; after a few classes by an index of all."""
        found, captions = self._found[origin], self.origin(origin).caption
        if name not in found:
            if len(found) == _FEW:
                self._search[origin] = ClassSearch(captions, self.classes)
            search = self._search.get(origin)
            found[name] = np.flatnonzero(mentions(captions, name)) if search is None else search(name)
        return found[name]

    def _of_class(self, origin: Origin, target: int) -> np.ndarray:
        """Rows that show a class, by label or, failing that, by caption: bool (rows,)."""
        table, name = self.origin(origin), self.classes[target]
        own = [i for i, known in enumerate(table.classes) if known.casefold() == name.casefold()]
        by_label = np.isin(table.label, own)
        unlabeled = table.label == UNKNOWN if own else np.ones(len(table), bool)
        if unlabeled.any():
            named = self._naming(origin, name)
            by_label[named] |= unlabeled[named]
        return by_label


def translated(label: np.ndarray, classes: Sequence[str], into: Sequence[str]) -> np.ndarray:
    """Labels in terms of other class names, int64; ``UNKNOWN`` where no name is the same.

    Args:
        label: Indices into ``classes``, or ``UNKNOWN``.
        classes: Names that the labels point into.
        into: Names that the result points into.
    """
    if tuple(classes) == tuple(into):  # names may occur twice, numbers do not
        return label.astype(np.int64)
    number = {name: i for i, name in reversed(list(enumerate(into)))}
    meaning = np.array([*(number.get(name, UNKNOWN) for name in classes), UNKNOWN])
    return np.asarray(meaning[label])  # UNKNOWN is -1 and so finds the last entry
