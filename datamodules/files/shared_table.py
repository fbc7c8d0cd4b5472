"""Tables that are kept beside the remote files that they are made from, so that other machines need not make them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import fsspec
import pyarrow as pa

from datamodules.files.remote_addresses import fill_in, public_address, without_secrets

log = logging.getLogger(__name__)


def shared_table(address: str, make: Callable[[], pa.Table], is_usable: Callable[[pa.Table], bool]) -> pa.Table:
    """Reads a table from a server; makes it, and keeps it there if that is allowed, if there is none.

    Args:
        address: Arrow IPC file on the server; its name must determine its content.
        make: Makes the table.
        is_usable: Whether a table that was read is one that ``make`` might have made; anybody may have written it.
    """
    table = _read(address)
    if table is None or not is_usable(table):
        table = make()
        _write(address, table)
    return table


def _read(address: str) -> pa.Table | None:
    try:
        with fsspec.open(fill_in(address), 'rb') as file, pa.ipc.open_file(file) as stream:
            table = stream.read_all()
        table.validate(full=True)
    except Exception as error:  # missing, cut off or forbidden, for which every file system has its own
        log.debug('%s is not read: %s', public_address(address), without_secrets(str(error)))
        return None
    log.info('read from %s', public_address(address))
    return table


def _write(address: str, table: pa.Table) -> None:
    try:
        with fsspec.open(fill_in(address), 'wb') as temporary, pa.ipc.new_file(temporary, table.schema) as stream:
            stream.write_table(table)
    except Exception as error:  # as for reading; the table is in the local cache all the same
        log.info('%s cannot be written: %s', public_address(address), without_secrets(str(error)))
        return
    log.info('kept for other machines as %s', public_address(address))
