from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.files.arrow_cache import stored_table
from datamodules.usage_error import UsageError


def test_a_table_is_made_once(tmp_path: Path) -> None:
    path, made = tmp_path / 'cache' / 'index.arrow', []

    def make() -> pa.Table:
        made.append(1)
        return pa.table({'a': pa.chunked_array([['x'], ['y']])})

    for _ in range(2):
        assert stored_table(path, make).to_pydict() == {'a': ['x', 'y']}
    assert made == [1] and [file.name for file in path.parent.iterdir()] == ['index.arrow']


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> pa.Table:
        raise ValueError('no')

    with pytest.raises(ValueError, match='no'):
        stored_table(tmp_path / 'index.arrow', fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('position', [20, -1, -60])
def test_a_changed_byte_is_noticed(position: int, tmp_path: Path) -> None:
    stored_table(tmp_path / 'x.arrow', lambda: pa.table({'a': ['x', 'y']}))
    content = bytearray((tmp_path / 'x.arrow').read_bytes())
    content[position] ^= 1
    (tmp_path / 'x.arrow').write_bytes(content)
    with pytest.raises(UsageError, match=r'x\.arrow is damaged .*: delete it'):
        stored_table(tmp_path / 'x.arrow', lambda: pa.table({'a': ['x', 'y']}))


def test_the_table_is_memory_mapped(tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    table = stored_table(tmp_path / 'x.arrow', lambda: pa.table({'a': ['x' * 100] * 10_000}))
    assert table.nbytes > 1_000_000 and pa.total_allocated_bytes() - before < 100_000
