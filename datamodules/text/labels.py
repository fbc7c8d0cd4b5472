"""Turn labels in files, which are class names or class numbers, into indices."""

from __future__ import annotations

import difflib
import logging
import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.rows.table import UNKNOWN
from datamodules.text.prompts import describe_classes, imagenet_classes
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)

_NUMBER = re.compile(r'-?[0-9]{1,30}(?:[.][0-9]{0,30})?(?:[eE][+-][0-9]{1,3})?')  # NumPy writes 1.000e+00
_MAX_NUMBER = 999_999_999  # what is larger is an identifier, such as that of a product
_NO_CLASS = frozenset(
    {'', 'nan', '-nan', 'nat', '<na>', 'na', 'n/a', '#n/a', '#na', r'\n', 'none', 'null'}
)  # as pandas, NumPy, R, Excel, MySQL, Python and SQL write it, in lower case
_SHOWN = 5  # unknown labels in a message


def number_labels(
    values: pa.Array | pa.ChunkedArray, class_names: Sequence[str] | str, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turns labels into indices into class names, and counts in the log those that are no class.

    Case, the number of spaces and the encoding of accents do not matter, as CLIP reads all alike. ``1.0`` and
    ``1.0e+00`` are class 1. A label that is empty, a negative whole number, NA, nan, None or null, or another such
    spelling, is no class, unless a class has that name.

    Args:
        values: Label of each row as a string, null where there is none: class names or indices into ``class_names``.
        class_names: The class names; or ``imagenet``, in which case labels that are names define the classes, and
            labels that are numbers are those of ImageNet.
        source: What was read, as ``data.<argument>=<value>``.

    Returns:
        Labels, int32 (N,), ``UNKNOWN`` where there is none; and the class names that they point into.

    Raises:
        UsageError: If there are labels, and each is neither a class name nor an index.

    Example:
        >>> label, classes = number_labels(pa.array(['dog', 'cat', '']), 'imagenet', 'data.train=pairs.csv')
        >>> label.tolist(), classes
        ([1, 0, -1], ('cat', 'dog'))
    """
    encoded = pc.utf8_trim_whitespace(pc.fill_null(values, '')).dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    found: list[str] = encoded.dictionary.to_pylist()
    classes = _choose_classes(found, class_names, source)
    index = _index_classes(classes, found)
    codes = np.array([index.get(_normalize(value), UNKNOWN) for value in found], np.int32)
    label = codes[np.asarray(encoded.indices)] if found else np.empty(0, np.int32)
    _report_unlabeled(encoded, codes, classes, source)
    return label, classes


def _normalize(value: str) -> str:
    number = _parse_number(value)
    return ' '.join(unicodedata.normalize('NFC', value).casefold().split()) if number is None else str(number)


def _parse_number(value: str) -> int | None:
    """Returns the whole number that a label is, ``None`` if it is not one.

    pandas makes 1.0 of 1 where another row has no label, and NumPy writes 1.000000000000000000e+00.
    """
    number = float(value) if _NUMBER.fullmatch(value) else math.nan
    return int(number) if number.is_integer() and abs(number) <= _MAX_NUMBER else None


def _is_no_class(value: str) -> bool:
    number = _parse_number(value)
    return value.casefold() in _NO_CLASS if number is None else number < 0  # torchvision has -1, others -100


def _choose_classes(found: Sequence[str], class_names: Sequence[str] | str, source: str) -> tuple[str, ...]:
    """Returns the class names given, else those in the labels, else ImageNet's if all labels are numbers."""
    if not isinstance(class_names, str):
        return tuple(class_names)
    named = [value for value in sorted(found, reverse=True) if not _is_no_class(value)]
    numbers = [value for value in named if _parse_number(value) is not None]
    if len(numbers) < len(named):
        if numbers:
            log.warning(
                '%s: some labels are numbers, such as %r, and some names: all are read as names', source, numbers[0]
            )
        return tuple(sorted({_normalize(value): value for value in named}.values()))
    log.warning('%s: labels are read as class numbers of ImageNet; if they are not, set data.class_names', source)
    return imagenet_classes()


def _index_classes(classes: Sequence[str], found: Sequence[str]) -> dict[str, int]:
    """Maps normalized names to the first class of that name and, unless all labels are names, numbers to classes."""
    names = {_normalize(name): number for number, name in reversed(list(enumerate(classes)))}
    if all(_normalize(value) in names for value in found if not _is_no_class(value)):
        return names
    return names | {str(number): number for number in range(len(classes))}


def _report_unlabeled(encoded: pa.DictionaryArray, codes: np.ndarray, classes: Sequence[str], source: str) -> None:
    """Logs how many rows have no class, and how many labels are not known; refuses a column without a known one."""
    found, rows = encoded.dictionary.to_pylist(), np.bincount(encoded.indices, minlength=len(codes))
    without = np.array([_is_no_class(value) for value in found], bool) & (codes == UNKNOWN)
    unknown = [found[code] for code in np.flatnonzero((codes == UNKNOWN) & ~without)]
    if unknown and (codes == UNKNOWN).all():
        raise UsageError(
            f'{source} has the label {unknown[0]!r}, which is neither a name nor an index of '
            f'{describe_classes(classes)}: set data.class_names.'
        )
    if count := int(rows[without].sum()):
        log.warning('%s: %d of %d rows have no class', source, count, len(encoded))
    if unknown:
        count = int(rows[(codes == UNKNOWN) & ~without].sum())
        shown = ', '.join(_describe_unknown(label, classes) for label in unknown[:_SHOWN])
        log.warning(
            '%s: %d of %d rows have a label that is not among the classes and count as without one: %s',
            source,
            count,
            len(encoded),
            shown,
        )


def _describe_unknown(label: str, classes: Sequence[str]) -> str:
    close = difflib.get_close_matches(label, classes, n=1)
    return f'{label!r:.80}' + (f' (near {close[0]!r})' if close else '')
