"""Labels as others write them: names of classes, or numbers that stand for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.rows.table import UNKNOWN
from datamodules.text.prompts import imagenet_classes
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)


def numbered(
    values: pa.Array | pa.ChunkedArray, class_names: Sequence[str] | str, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as indices into class names.

    Args:
        values: Label of each row as a string, empty or null where there is none. Either all are names of classes,
            or all are indices into ``class_names``.
        class_names: The names, or ``imagenet``, which leaves it to names in the labels to say which there are.
        source: What was read, as ``data.<argument>=<value>``.

    Returns:
        Labels, int32 (N,), ``UNKNOWN`` where there is none; and the class names that they point into.

    Raises:
        UsageError: If a label is none of the class names, or no index into them.
    """
    encoded = pc.utf8_trim_whitespace(values).dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    found = encoded.dictionary.to_pylist()
    classes = _classes(found, class_names, source)
    number = {name: i for i, name in reversed(list(enumerate(classes)))}
    number |= {'': UNKNOWN} | ({} if set(found) <= number.keys() else {str(i): i for i in range(len(classes))})
    if strange := next((name for name in found if name not in number), None):
        raise UsageError(
            f'{source} has the label {strange!r}, which is neither one of the {len(classes):,} names in '
            f'data.class_names nor an index into them: set data.class_names.'
        )
    meaning = np.array([number[name] for name in found] + [UNKNOWN], np.int32)
    return meaning[np.asarray(pc.fill_null(encoded.indices, len(found)))], classes


def _classes(found: Sequence[str], class_names: Sequence[str] | str, source: str) -> tuple[str, ...]:
    """The class names given, else those found, else ImageNet's where only numbers were found."""
    if not isinstance(class_names, str):
        return tuple(class_names)
    if not all(name.isdecimal() for name in found if name):
        return tuple(sorted(set(found) - {''}))
    log.warning("%s: labels are taken for numbers of ImageNet's classes; if not, set data.class_names", source)
    return imagenet_classes()
