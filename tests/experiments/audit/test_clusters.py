from __future__ import annotations

import numpy as np
import pyarrow as pa

from experiments.audit.clusters import caption_groups, clusters


def test_the_largest_groups_come_first_with_their_rows_ascending() -> None:
    group = np.array([7, 1, 2, 1, 3, 2, 1, 9])
    found = clusters(group, np.arange(8), shown=5)
    assert [rows.tolist() for rows in found.largest] == [[1, 3, 6], [2, 5]]
    assert (found.groups, found.pairs) == (2, 5)


def test_few_are_shown_and_all_are_counted() -> None:
    found = clusters(np.repeat(np.arange(10), 3), np.arange(30), shown=2)
    assert len(found.largest) == 2 and (found.groups, found.pairs) == (10, 30)


def test_rows_that_do_not_count_are_in_no_group() -> None:
    found = clusters(np.array([4, 4, 5, 5]), np.array([0, 2, 3]), shown=2)
    assert [rows.tolist() for rows in found.largest] == [[2, 3]]
    assert clusters(np.arange(4), np.arange(4), shown=2) == ([], 0, 0)


def test_captions_are_equal_but_for_capitals() -> None:
    texts = ['A dog', 'a cat', 'a Dog', 'a dog.', 'été', 'ÉTÉ']
    for captions in (pa.array(texts), pa.chunked_array([texts[:3], texts[3:]])):
        group = caption_groups(captions)
        assert group[0] == group[2] and group[4] == group[5] and len(np.unique(group)) == 4
