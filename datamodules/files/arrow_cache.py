"""Tables that are computed once, stored as Arrow files, and memory-mapped from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from datamodules.files.building import REMEDY, make_once
from datamodules.files.checksums import append_checksums, check_content
from datamodules.usage_error import UsageError

MAX_CHUNK_BYTES = 1 << 31  # of strings in one chunk of a column


def stored_table(path: Path, make: Callable[[], pa.Table]) -> pa.Table:
    """Maps a stored table into memory; makes and stores it first if the file does not exist.

    Args:
        path: Arrow IPC file that ends in checksums; its name must determine its content.
        make: Makes the table.

    Raises:
        UsageError: If the file is damaged.
    """

    def write(temporary: Path) -> None:
        table = make()
        if table.nbytes < MAX_CHUNK_BYTES:
            table = table.combine_chunks()  # a larger one would be copied in vain
        _write(temporary, table.schema, table.to_batches())

    make_once(path, write)
    return _map(path)


def stored_batches(path: Path, schema: pa.Schema, make: Callable[[], Iterable[pa.RecordBatch]]) -> pa.Table:
    """Works like :func:`stored_table`, but holds at most one batch in memory while it makes the table.

    Args:
        path: Arrow IPC file that ends in checksums; its name must determine its content.
        schema: Columns of the batches.
        make: Makes the batches one after the other.

    Raises:
        UsageError: If the file is damaged.
    """
    make_once(path, lambda temporary: _write(temporary, schema, make()))
    return _map(path)


def _write(temporary: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with temporary.open('xb') as file, pa.ipc.new_file(file, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    append_checksums(temporary)


def _map(path: Path) -> pa.Table:
    content_bytes = check_content(path)
    try:
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file.read_buffer(content_bytes)).read_all()  # without a copy
    except OSError as error:  # some network and shared folders cannot map
        raise UsageError(f'{path} cannot be mapped into memory ({error.strerror}): {REMEDY}.') from error
