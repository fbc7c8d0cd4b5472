"""Leaves out pairs whose picture is outside the folder of the data set."""

from __future__ import annotations

import logging

import numpy as np

from datamodules.files.quoting import quote
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError

log = logging.getLogger(__name__)


def leave_out_outside(table: PairTable, follow_outside: bool) -> PairTable:
    """Leaves out rows whose picture is outside its folder after links are followed, and logs how many there were.

    Args:
        table: Any table; only pictures in a folder can be outside it.
        follow_outside: Keep these rows, and let the table open their pictures.

    Raises:
        UsageError: If no row is left.
    """
    opener = table.opener
    if not isinstance(opener, FolderImages):
        return table
    opener.follow_outside = follow_outside
    outside = np.zeros(len(table), bool) if follow_outside else ~opener.are_inside(table.image)
    if not outside.any():
        return table
    first = quote(table.image[int(np.argmax(outside))].as_py())
    place = f'outside {opener.folder!r}'
    remedy = 'set data.follow_outside=true if you trust whoever wrote the list and made the links'
    if outside.all():
        raise UsageError(
            f'all {len(table)} images are {place}, such as {first}: set the folder of the data, such as data.root, to '
            f'one that contains them, or {remedy}.'
        )
    log.warning(
        '%d of %d images are %s and are left out; first: %s; %s', outside.sum(), len(table), place, first, remedy
    )
    return table.take(np.flatnonzero(~outside))
