"""Identities of pictures, which name every cache made from them, so that changed pictures are decoded again.

Captions and the location of a folder are not part of an identity: an edited caption or a moved data set keeps its
caches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa

from datamodules.files.file_states import file_states
from datamodules.rows.table import ImageOpener, PairTable, digest_strings

_VERSION = 1  # to be raised when pictures are decoded or resized differently
_SAMPLES = 64  # pictures whose content is read
_SAMPLE_BYTES = 1 << 16
_IDENTITIES: WeakKeyDictionary[PairTable, str] = WeakKeyDictionary()


def identify_pictures(table: PairTable) -> str:
    """Digest of a table's pictures, 16 hexadecimal digits: of their references, in order, and of their content.

    The content is identified by the opener's method ``identity(references) -> bytes``: from the size and modification
    time of each file in a folder, or of each shard. For an opener without that method, the pixels of 64 pictures are
    read, and captions count as well, because such an opener may depend on them. The digest is computed once per table,
    so a process does not notice files that change while it runs.
    """
    if table not in _IDENTITIES:
        identify_content = getattr(table.opener, 'identity', None)
        content = _identify_unknown(table) if identify_content is None else identify_content(table.image)
        references = digest_strings(table.image)
        _IDENTITIES[table] = hashlib.sha256(b'%d %d' % (_VERSION, len(table)) + references + content).hexdigest()[:16]
    return _IDENTITIES[table]


def identify_files(root: Path, names: pa.Array | pa.ChunkedArray) -> bytes:
    """Identity of files in a folder: size and modification time of each, and the first 64 KiB of 64 of them.

    The identity changes when a missing file appears. A file that is replaced by one of the same size and modification
    time (in nanoseconds) is noticed only if it is among the 64.

    Args:
        root: Folder that the names are relative to; not part of the identity.
        names: Names of the files, one for each row.
    """
    digest = hashlib.sha256()
    for states in file_states(root, names):
        digest.update(states.tobytes())
    return digest.digest() + identify_samples(names, lambda name: _beginning(root, name))


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


def _beginning(root: Path, name: str) -> bytes:
    try:
        with open(root / name, 'rb') as file:
            return file.read(_SAMPLE_BYTES)
    except (OSError, ValueError):
        return b''


def _pixels(opener: ImageOpener, reference: str) -> bytes:
    try:
        image: Any = opener(reference)
    except ValueError:  # UnreadableImage
        return b''
    return identify_array(np.asarray(image))
