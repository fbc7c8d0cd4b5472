"""Identities of pictures, which name every cache made from them, so that changed pictures are decoded again.

Captions and the location of a folder are not part of an identity: an edited caption or a moved data set keeps its
caches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa

from datamodules.files.file_states import identify_files
from datamodules.rows.table import ImageOpener, PairTable, digest_strings

__all__ = ['identify_array', 'identify_files', 'identify_pictures', 'identify_pixels', 'identify_samples']

_VERSION = 4  # to be raised when pictures are decoded or resized differently
_SAMPLES = 64  # pictures whose content is read
_IDENTITIES: WeakKeyDictionary[PairTable, str] = WeakKeyDictionary()


def identify_pictures(table: PairTable) -> str:
    """Digest of a table's pictures, 16 hexadecimal digits: of their references, in order, and of their content.

    The content is identified by the opener's method ``identity(references) -> bytes``, which for files and shards is
    :func:`datamodules.files.file_states.identify_files`. For an opener without that method, the pixels of 64 pictures
    are read, and captions count as well, because such an opener may depend on them. The digest is computed once per
    table, so a process does not notice files that change while it runs.
    """
    if table not in _IDENTITIES:
        identify_content = getattr(table.opener, 'identity', None)
        content = _identify_unknown(table) if identify_content is None else identify_content(table.image)
        references = digest_strings([table.image])
        _IDENTITIES[table] = hashlib.sha256(b'%d %d' % (_VERSION, len(table)) + references + content).hexdigest()[:16]
    return _IDENTITIES[table]


def identify_samples(references: pa.Array | pa.ChunkedArray, read: Callable[[str], bytes]) -> bytes:
    """Identity of the content behind 64 references, spread evenly over all references."""
    digest = hashlib.sha256()
    for row in np.unique(np.linspace(0, len(references) - 1, _SAMPLES).astype(np.int64)):
        content = read(references[int(row)].as_py())
        digest.update(len(content).to_bytes(8, 'little') + content)
    return digest.digest()


def identify_array(array: np.ndarray) -> bytes:
    """Identity of an array: shape, type and content."""
    digest = hashlib.sha256(f'{array.shape} {array.dtype.str} '.encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.digest()


def identify_pixels(opener: ImageOpener, references: pa.Array | pa.ChunkedArray) -> bytes:
    """Identity of the pixels of 64 pictures, for openers without an identity."""
    return identify_samples(references, lambda reference: _pixels(opener, reference))


def _identify_unknown(table: PairTable) -> bytes:
    kind = type(table.opener)
    name = f'{kind.__module__}.{kind.__qualname__} {table.fingerprint} '
    return name.encode() + identify_pixels(table.opener, table.image)


def _pixels(opener: ImageOpener, reference: str) -> bytes:
    try:
        image: Any = opener(reference)
    except ValueError:  # UnreadableImage
        return b''
    return identify_array(np.asarray(image))
