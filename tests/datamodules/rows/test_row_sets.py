from __future__ import annotations

import numpy as np

from datamodules.rows.row_sets import BLOCK, blocks, mark_rows, row_numbers


def test_blocks_cover_all_rows_in_order() -> None:
    assert [np.arange(7)[block].tolist() for block in blocks(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [*blocks(0)] == []


def test_row_numbers_are_those_of_the_mask_in_half_the_memory() -> None:
    rows = np.array([0, 5, BLOCK - 1, BLOCK, 2 * BLOCK + 9])
    found = row_numbers(mark_rows(rows, 3 * BLOCK))
    assert found.tolist() == rows.tolist() and found.dtype == np.int32
