"""References to pictures in tar shards: ``<shard>:<key>:<offset>:<size>``, the shard relative to some root.

Shard and key name a pair, in this download and any other; offset and size say where its picture lies in this one.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

Strings: TypeAlias = pa.Array | pa.ChunkedArray

_AFTER_SHARD = r'(?is)^(.*?\.tar):.*$'
_PLACE = r':\d+:\d+$'


def format_reference(shard: str, key: str, offset: int, size: int) -> str:
    """Makes the reference of the picture at some bytes of a shard."""
    return f'{shard}:{key}:{offset}:{size}'


def find_place(reference: str) -> tuple[str, int, int]:
    """Returns shard, offset and size of a picture.

    Example:
        >>> find_place('00000.tar:000000007:512:2048')
        ('00000.tar', 512, 2048)
    """
    name, offset, size = reference.rsplit(':', 2)
    return re.sub(_AFTER_SHARD, r'\1', name), int(offset), int(size)


def strip_keys(references: Strings) -> Strings:
    """Turns references into shards."""
    return pc.replace_substring_regex(references, pattern=_AFTER_SHARD, replacement=r'\1')


def strip_places(references: Strings) -> Strings:
    """Turns references into ``<shard>:<key>``."""
    return pc.replace_substring_regex(references, pattern=_PLACE, replacement='')
