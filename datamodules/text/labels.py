"""Turn labels in files, which are class names or class numbers, into indices."""

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


def number_labels(
    values: pa.Array | pa.ChunkedArray, class_names: Sequence[str] | str, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turns labels into indices into class names.

    Args:
        values: Label of each row as a string, empty or null where there is none. Either all are class names, or all
            are indices into ``class_names``.
        class_names: The class names; or ``imagenet``, in which case labels that are names define the classes, and
            labels that are numbers are those of ImageNet.
        source: What was read, as ``data.<argument>=<value>``.

    Returns:
        Labels, int32 (N,), ``UNKNOWN`` where there is none; and the class names that they point into.

    Raises:
        UsageError: If a label is neither a class name nor an index.

    Example:
        >>> label, classes = number_labels(pa.array(['dog', 'cat', '']), 'imagenet', 'data.train=pairs.csv')
        >>> label.tolist(), classes
        ([1, 0, -1], ('cat', 'dog'))
    """
    encoded = pc.utf8_trim_whitespace(values).dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    values_seen = encoded.dictionary.to_pylist()
    classes = _choose_classes(values_seen, class_names, source)
    index = {name: i for i, name in reversed(list(enumerate(classes)))}
    index |= {'': UNKNOWN} | ({} if set(values_seen) <= index.keys() else {str(i): i for i in range(len(classes))})
    if unknown := next((value for value in values_seen if value not in index), None):
        raise UsageError(
            f'{source} has the label {unknown!r}, which is neither one of the {len(classes):,} names in '
            f'data.class_names nor an index into them: set data.class_names.'
        )
    index_of_code = np.array([index[value] for value in values_seen] + [UNKNOWN], np.int32)
    return index_of_code[np.asarray(pc.fill_null(encoded.indices, len(values_seen)))], classes


def _choose_classes(values: Sequence[str], class_names: Sequence[str] | str, source: str) -> tuple[str, ...]:
    """Returns the class names given, else those in the labels, else ImageNet's if all labels are numbers."""
    if not isinstance(class_names, str):
        return tuple(class_names)
    if not all(value.isdecimal() for value in values if value):
        return tuple(sorted(set(values) - {''}))
    log.warning('%s: labels are read as class numbers of ImageNet; if they are not, set data.class_names', source)
    return imagenet_classes()
