from __future__ import annotations

import numpy as np
import pytest

from callbacks.vouching import describe_seen, share_seen
from datamodules.rows.pair_sketch import hash_pairs, sketch
from tests.callbacks.observed import ROWS, Answers, table


def test_the_share_is_of_the_pairs_that_were_scored() -> None:
    model, is_scored = Answers(), np.arange(ROWS) < 40
    assert share_seen(model, table(), is_scored) is None
    model.trained_pairs = [sketch(hash_pairs(table())[30:])]
    assert share_seen(model, table(), is_scored) == 0.25
    assert share_seen(model, table(), ~is_scored) == 1


@pytest.mark.parametrize('share', [None, 0.0, 0.004])
def test_nothing_is_said_of_pairs_that_were_not_seen(share: float | None) -> None:
    assert describe_seen(share) == ''


def test_a_share_is_said_with_what_it_means() -> None:
    assert describe_seen(0.972).startswith('The model was trained on about 97% of these pairs, and it vouches for ')
