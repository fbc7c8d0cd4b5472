"""What attacks choose from: clean pairs, held-out pairs and class names, minus what earlier attacks have taken."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.rows.table import UNKNOWN, Origin, PairTable
from datamodules.text.class_search import ClassSearch, mentions, without_longer_names
from datamodules.text.prompts import describe_classes, imagenet_templates
from datamodules.usage_error import UsageError

_MAX_SINGLE_SEARCHES = 4  # classes; then an index of all words is built, since hundreds may follow


class Poison(NamedTuple):
    """One poisoned pair.

    Attributes:
        source: Row of the image in its table of origin.
        origin: Table that the image comes from.
        target: Target class, as an index into the pool's classes.
        caption: Caption of the poisoned pair.
        replaces: Row of the clean table that the poison replaces, or -1 if it is appended.
        other: Row, in the same table, of a second image to mix in, or -1 for none.
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
    """Everything that an attack may look at. The attacks of a run share it, so that no two use the same image.

    An image with several captions has several rows but counts once: it is taken with all its rows, and shows a class if
    any of its rows does.

    Args:
        table: The clean training pairs.
        heldout: Pairs outside the training set, labeled or not, or ``None``.
        classes: Classes that attacks may target, and among which the zero-shot classifier chooses.
        templates: Prompts with one ``{}`` each.
        taken: Rows of each table that no further attack may use: images and replaced rows of earlier attacks, and
            whatever the caller rules out, such as unreadable images.
    """

    table: PairTable
    heldout: PairTable | None
    classes: tuple[str, ...]
    templates: tuple[str, ...] = field(default_factory=imagenet_templates)
    taken: dict[Origin, set[int]] = field(default_factory=lambda: {'train': set(), 'heldout': set()})
    _image_numbers: dict[Origin, np.ndarray] = field(init=False, repr=False, default_factory=dict)
    _rows_naming: dict[Origin, dict[str, np.ndarray]] = field(
        init=False, repr=False, default_factory=lambda: {'train': {}, 'heldout': {}}
    )
    _search: dict[Origin, ClassSearch] = field(init=False, repr=False, default_factory=dict)

    def origin(self, origin: Origin) -> PairTable:
        """The table that an origin names. Raises ``UsageError`` for ``heldout`` if there is no held-out table."""
        if origin == 'train':
            return self.table
        if self.heldout is None:
            raise UsageError('the data has no held-out images to poison: set source: train, or add a held-out set.')
        return self.heldout

    def index(self, name: str) -> int:
        """Index of a class by its name, ignoring case if no name matches exactly.

        Raises:
            UsageError: If no class has this name (the closest names are listed), or several have.
        """
        matches = [i for i, known in enumerate(self.classes) if known == name]
        matches = matches or [i for i, known in enumerate(self.classes) if known.casefold() == name.casefold()]
        if len(matches) > 1:
            raise UsageError(
                f'{name!r} is the name of {len(matches)} classes, numbers {matches}: choose another target.'
            )
        if not matches:
            close = difflib.get_close_matches(name, self.classes, n=5, cutoff=0.5)
            some = f'choose one, such as {", ".join(self.classes[:5])}.'
            hint = f'did you mean {", ".join(close)}?' if close else some
            raise UsageError(
                f'target {name!r} is not one of {describe_classes(self.classes)}: {hint} '
                'Other classes are set by data.class_names.'
            )
        return matches[0]

    def captions_of(self, target: int, origin: Origin = 'train') -> np.ndarray:
        """Rows of a table, by default the clean training pairs, whose caption names a class: ascending, int64."""
        return self._find_rows_naming(origin, self.classes[target])

    def images(self, origin: Origin) -> np.ndarray:
        """The first row of every image of a table: ascending, int64."""
        number = self._number_images(origin)
        first = np.empty(int(number.max()) + 1, np.int64)
        first[number[::-1]] = np.arange(len(number))[::-1]  # NumPy keeps the last of several values for one index
        return first

    def allowed(self, origin: Origin, target: int) -> np.ndarray:
        """Images that an attack on a class may use: those that are not taken and do not show the class.

        A labeled image shows the class of its label. An unlabeled image, and any image of a table whose labels do not
        include the class, shows the class if one of its captions names it.

        Returns:
            First row of each such image, ascending, int64.
        """
        is_excluded = self._mark_class(origin, target)
        is_excluded[list(self.taken[origin])] = True
        images = self.images(origin)
        is_allowed = np.ones(len(images), bool)
        is_allowed[self._number_images(origin)[is_excluded]] = False
        return images[is_allowed]

    def showing(self, origin: Origin, target: int) -> np.ndarray:
        """Images that show a class and that no attack has taken; :meth:`allowed` says when an image shows a class.

        Returns:
            First row of each such image, ascending, int64.
        """
        images, number = self.images(origin), self._number_images(origin)
        of_class = np.zeros(len(images), bool)
        of_class[number[self._mark_class(origin, target)]] = True
        of_class[number[list(self.taken[origin])]] = False
        return images[of_class]

    def untaken(self, origin: Origin, rows: np.ndarray) -> np.ndarray:
        """Drops rows whose image is taken, and all but the first of several rows of an image: ascending, int64."""
        number = self._number_images(origin)
        rows = rows[~self.of_taken_images(origin)[rows]]
        return np.sort(rows[np.unique(number[rows], return_index=True)[1]])

    def rows_showing(self, origin: Origin, target: int) -> np.ndarray:
        """Rows that show a class by their label, or else by their own caption, taken or not: ascending, int64."""
        return np.flatnonzero(self._mark_class(origin, target))

    def of_taken_images(self, origin: Origin) -> np.ndarray:
        """Whether the image of each row is taken, perhaps through another row: bool (rows,)."""
        number = self._number_images(origin)
        return np.isin(number, number[list(self.taken[origin])])

    def same_image(self, origin: Origin, rows: Sequence[int]) -> np.ndarray:
        """A number for the image of each row, equal for rows of the same image, int64."""
        return self._number_images(origin)[list(rows)]

    def labels(self, origin: Origin, rows: np.ndarray) -> np.ndarray:
        """True classes of some rows as indices into ``classes``, int64, ``UNKNOWN`` where there is no label."""
        table = self.origin(origin)
        return translate_labels(table.label[rows], table.classes, self.classes)

    def comparable(self, origin: Origin, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that have a label, all if none has: there is no clean rate of pictures without a label."""
        labeled = rows[self.origin(origin).label[rows] != UNKNOWN]
        return labeled if len(labeled) else rows

    def take(self, poisons: Iterable[Poison]) -> None:
        """Marks the images and replaced rows of poisons as taken, so that no further attack uses them."""
        for poison in poisons:
            self.taken[poison.origin].add(poison.source)
            if poison.other >= 0:
                self.taken[poison.origin].add(poison.other)
            if poison.replaces >= 0:
                self.taken['train'].add(poison.replaces)

    def _number_images(self, origin: Origin) -> np.ndarray:
        """Number of the image of each row, in order of first appearance, (rows,)."""
        if origin not in self._image_numbers:
            image = self.origin(origin).image
            whole = image.combine_chunks() if isinstance(image, pa.ChunkedArray) else image
            self._image_numbers[origin] = np.asarray(whole.dictionary_encode().indices)
        return self._image_numbers[origin]

    def _find_rows_naming(self, origin: Origin, name: str) -> np.ndarray:
        """Rows whose caption names a class: ascending, int64. After a few classes an index of all words is built."""
        rows, captions = self._rows_naming[origin], self.origin(origin).caption
        if name not in rows:
            if len(rows) == _MAX_SINGLE_SEARCHES:
                self._search[origin] = ClassSearch(captions, self.classes)
            search = self._search.get(origin)
            found = np.flatnonzero(mentions(captions, name)) if search is None else search(name)
            rows[name] = without_longer_names(found, captions, name, self.classes)
        return rows[name]

    def _mark_class(self, origin: Origin, target: int) -> np.ndarray:
        """Whether each row shows a class, by its label or, without one, by its caption: bool (rows,)."""
        table, name = self.origin(origin), self.classes[target]
        labels = [i for i, known in enumerate(table.classes) if known.casefold() == name.casefold()]
        shows = np.isin(table.label, labels)
        unlabeled = table.label == UNKNOWN if labels else np.ones(len(table), bool)
        if unlabeled.any():
            named = self._find_rows_naming(origin, name)
            shows[named] |= unlabeled[named]
        return shows


def translate_labels(label: np.ndarray, classes: Sequence[str], into: Sequence[str]) -> np.ndarray:
    """Converts labels to another list of class names, int64; ``UNKNOWN`` where the name is not in it.

    Args:
        label: Indices into ``classes``, or ``UNKNOWN``.
        classes: Names that the labels refer to.
        into: Names that the result refers to.
    """
    if tuple(classes) == tuple(into):  # keep indices: two classes may share a name
        return label.astype(np.int64)
    index = {name: i for i, name in reversed(list(enumerate(into)))}
    translation = np.array([*(index.get(name, UNKNOWN) for name in classes), UNKNOWN])
    return np.asarray(translation[label])  # UNKNOWN is -1, the index of the last entry
