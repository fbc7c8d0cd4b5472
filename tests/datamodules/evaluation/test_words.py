from __future__ import annotations

import logging

import numpy as np
import pytest

from datamodules.evaluation.words import label_by_words
from datamodules.pictures.images import ArrayImages
from datamodules.rows.table import UNKNOWN, PairTable

CAPTIONS = [('a', 'it runs'), ('a', 'two dogs'), ('b', 'a dog'), ('b', 'a boat'), ('c', 'a hot dog'), ('d', 'a tree')]
OPENER = ArrayImages(np.zeros((1, 8, 8, 3), np.uint8))


def pairs(label: list[int] | None = None, classes: tuple[str, ...] = ()) -> PairTable:
    """Two captions each of ``a`` and ``b``, one each of ``c`` and ``d``."""
    images, captions = zip(*CAPTIONS, strict=True)
    return PairTable(images, captions, label, classes, opener=OPENER)


def test_a_picture_has_the_one_class_that_its_captions_name_on_its_first_row(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    table = label_by_words(pairs(), ['boat', 'dog', 'hot dog'])
    assert table.label.tolist() == [1, UNKNOWN, UNKNOWN, UNKNOWN, 2, UNKNOWN]
    assert table.classes == ('boat', 'dog', 'hot dog') and table.caption == pairs().caption
    assert caplog.messages == [
        'data.classes_by_words: 2 of 4 held-out pictures name one class (boat 0, dog 1, hot dog 1); 1 name several, '
        'which do not count'
    ]


def test_refuses_words_that_leave_nothing_to_measure_on() -> None:
    with pytest.raises(ValueError, match=r'none has captions that name exactly one of data\.class_names, and 0 name'):
        label_by_words(pairs(), ['zebra', 'yak'])


def test_refuses_pairs_that_have_classes() -> None:
    with pytest.raises(ValueError, match=r'classes_by_words is for pairs without classes, and these have 1'):
        label_by_words(pairs([0] * 6, ('thing',)), ['dog', 'boat'])
