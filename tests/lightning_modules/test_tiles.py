from __future__ import annotations

import pytest

from lightning_modules.tiles import TILE, tiles


@pytest.mark.parametrize(
    ('rows', 'columns', 'number'),
    [
        (8192, 8192, 1),
        (1024, 65_536, 1),
        (16_384, 16_384, 16),
        (32_768, 32_768, 64),
        (4096, 65_536, 16),
        (2, TILE**2, 2),
    ],
)
def test_no_tile_of_a_large_matrix_is_larger_than_another(rows: int, columns: int, number: int) -> None:
    parts = tiles(rows, columns)
    assert len(parts) == number
    assert number == 1 or max(part.stop - part.start for part in parts) * columns <= max(TILE, columns)


@pytest.mark.parametrize(('rows', 'tile_size'), [(7, 3), (6, 3), (2, 3), (1, 1), (0, 3), (0, None)])
def test_every_row_is_in_one_tile(rows: int, tile_size: int | None) -> None:
    parts = tiles(rows, 5, tile_size)
    assert [row for part in parts for row in range(rows)[part]] == [*range(rows)] and parts
