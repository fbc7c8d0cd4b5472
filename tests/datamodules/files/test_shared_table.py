from __future__ import annotations

import logging
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pytest

from datamodules.files.shared_table import shared_table
from tests.helpers.file_server import FileServer, serve

TABLE = pa.table({'x': ['a', 'b']}).replace_schema_metadata({'left_out': '[]'})


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve({}) as server:
        yield server


def refuse() -> pa.Table:
    raise AssertionError('made again')


def test_is_made_once_for_all_machines() -> None:
    assert shared_table('memory://once/x.arrow', lambda: TABLE, lambda _: True) is TABLE
    read = shared_table('memory://once/x.arrow', refuse, lambda table: table.column_names == ['x'])
    assert read.equals(TABLE, check_metadata=True)


@pytest.mark.parametrize('content', [b'', b'ARROW1', b'x' * 1000])
def test_a_damaged_one_is_replaced(content: bytes) -> None:
    fsspec.filesystem('memory').pipe('/damaged/x.arrow', content)
    assert shared_table('memory://damaged/x.arrow', lambda: TABLE, lambda _: True) is TABLE
    assert shared_table('memory://damaged/x.arrow', refuse, lambda _: True).equals(TABLE)


def test_one_that_does_not_fit_is_replaced() -> None:
    other = pa.table({'y': [1]})
    assert shared_table('memory://other/x.arrow', lambda: other, lambda _: True) is other
    assert shared_table('memory://other/x.arrow', lambda: TABLE, lambda table: 'x' in table.column_names) is TABLE
    assert shared_table('memory://other/x.arrow', refuse, lambda _: True).equals(TABLE)


def test_a_server_that_takes_none_does_no_harm(server: FileServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, 'datamodules'):
        assert shared_table(f'{server.address}/x.arrow', lambda: TABLE, lambda _: True) is TABLE
    assert '/x.arrow cannot be written' in caplog.text
