"""Tables that are computed once, stored as Arrow files, and memory-mapped from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from datamodules.files.atomic import write_atomically
from datamodules.files.checksums import append_checksums, check_content


def stored_table(path: Path, make: Callable[[], pa.Table]) -> pa.Table:
    """Maps a stored table into memory; makes and stores it first if the file does not exist.

    Args:
        path: Arrow IPC file that ends in checksums; its name must determine its content.
        make: Makes the table.

    Raises:
        UsageError: If the file is damaged.
    """
    if path.exists():
        return _map(path)
    table = make().combine_chunks()
    return stored_batches(path, table.schema, table.to_batches)


def stored_batches(path: Path, schema: pa.Schema, make: Callable[[], Iterable[pa.RecordBatch]]) -> pa.Table:
    """Works like :func:`stored_table`, but holds at most one batch in memory while it makes the table.

    Args:
        path: Arrow IPC file that ends in checksums; its name must determine its content.
        schema: Columns of the batches.
        make: Makes the batches one after the other.

    Raises:
        UsageError: If the file is damaged.
    """
    if not path.exists():
        with write_atomically(path) as temporary:
            with pa.ipc.new_file(temporary, schema) as file:
                for batch in make():
                    file.write_batch(batch)
            append_checksums(temporary)
    return _map(path)


def _map(path: Path) -> pa.Table:
    content_bytes = check_content(path)
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file.read_buffer(content_bytes)).read_all()  # without a copy
