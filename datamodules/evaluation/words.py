"""Classes by words: labels for captioned pictures, which have none, from the classes that their captions name."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datamodules.rows.table import UNKNOWN, PairTable
from datamodules.text.class_search import mentions, without_longer_names
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)


def label_by_words(table: PairTable, names: Sequence[str]) -> PairTable:
    """Labels each picture whose captions together name exactly one class; others stay without a label.

    A picture with several captions has several rows. The first has the label, so that the picture counts once.

    Args:
        table: Pairs without labels.
        names: Names of the classes, found in captions as :func:`datamodules.text.class_search.mentions` does.

    Raises:
        UsageError: If no picture has a label in the end, or the pairs have classes of their own.
    """
    if table.classes:
        raise UsageError(
            f'data.classes_by_words is for pairs without classes, and these have {len(table.classes)}: set it to false.'
        )
    first, picture = number_pictures(table)
    named = np.zeros((len(first), len(names)), bool)
    for column, name in enumerate(names):
        rows = np.flatnonzero(mentions(table.caption, name))
        named[picture[without_longer_names(rows, table.caption, name, names)], column] = True
    label = np.full(len(table), UNKNOWN, np.int32)
    label[first] = choose_label(named)
    _report(label, named, names)
    return PairTable(table.image, table.caption, label, names, table.keys, opener=table.opener)


def number_pictures(table: PairTable) -> tuple[np.ndarray, np.ndarray]:
    """The first row of every picture, and the number of each row's picture among them, int64."""
    image = table.image.combine_chunks() if isinstance(table.image, pa.ChunkedArray) else table.image
    number = np.asarray(image.dictionary_encode().indices)
    return np.unique(number, return_index=True)[1], number.astype(np.int64)


def choose_label(named: np.ndarray) -> np.ndarray:
    """The one class that is named, or ``UNKNOWN`` if none or several are, int64.

    Args:
        named: Whether the captions of each picture name each class, bool (pictures, classes).

    Example:
        >>> choose_label(np.array([[False, True], [True, True], [False, False]])).tolist()
        [1, -1, -1]
    """
    return np.where(named.sum(1) == 1, named.argmax(1), UNKNOWN)


def _report(label: np.ndarray, named: np.ndarray, names: Sequence[str]) -> None:
    """Logs how many pictures each class has; refuses words that no picture can be measured with."""
    counts = np.bincount(label[label != UNKNOWN], minlength=len(names)).tolist()
    several = int((named.sum(1) > 1).sum())
    if not any(counts):
        raise UsageError(
            f'data.classes_by_words: of {len(named):,} held-out pictures, none has captions that name exactly one of '
            f'data.class_names, and {several:,} name several: list things that captions name.'
        )
    shown = ', '.join(f'{name} {count}' for name, count in zip(names, counts, strict=True))
    log.warning(
        'data.classes_by_words: %d of %d held-out pictures name one class (%s); %d name several, which do not count',
        sum(counts), len(named), shown, several,
    )  # fmt: skip
