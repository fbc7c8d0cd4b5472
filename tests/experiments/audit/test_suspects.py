from __future__ import annotations

import numpy as np

from experiments.audit.suspects import OF_ONE_PICTURE, suspects


def test_the_most_suspicious_pairs_come_first_and_those_without_scores_never() -> None:
    suspicion = np.array([1, np.nan, 3, 2, -1])
    assert suspects(suspicion, np.arange(5), 3).tolist() == [2, 3, 0]
    assert suspects(suspicion, np.arange(5), 100).tolist() == [2, 3, 0, 4]


def test_one_picture_does_not_fill_the_page() -> None:
    group = np.array([*[0] * 100, 1, 2])
    shown = suspects(np.array([*np.arange(100) + 9.0, 8, 7]), group, 30)
    assert shown.tolist() == [*range(99, 99 - OF_ONE_PICTURE, -1), 100, 101]
