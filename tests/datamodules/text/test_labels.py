from __future__ import annotations

import logging

import pyarrow as pa
import pytest

from datamodules.rows.table import UNKNOWN
from datamodules.text.labels import numbered
from datamodules.text.prompts import imagenet_classes


class TestNumbered:
    def test_names_are_numbered_in_their_order(self) -> None:
        label, classes = numbered(pa.array(['dog', ' cat', 'dog', '', None]), 'imagenet', '')
        assert classes == ('cat', 'dog') and label.tolist() == [1, 0, 1, UNKNOWN, UNKNOWN]

    def test_names_given_decide_on_the_numbers(self) -> None:
        label, classes = numbered(pa.chunked_array([['dog'], ['cat']]), ['dog', 'boat', 'cat'], '')
        assert classes == ('dog', 'boat', 'cat') and label.tolist() == [0, 2]

    def test_numbers_are_indices_into_the_names(self) -> None:
        label, classes = numbered(pa.array(['1', '0', '']), ['dog', 'cat'], '')
        assert classes == ('dog', 'cat') and label.tolist() == [1, 0, UNKNOWN]

    def test_numbers_alone_are_those_of_imagenet_and_it_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            label, classes = numbered(pa.array(['999', '0']), 'imagenet', 'data.train=x')
        assert classes == imagenet_classes() and label.tolist() == [999, 0]
        assert 'set data.class_names' in caplog.text

    @pytest.mark.parametrize('stranger', ['frog', '2', '-1', '1.0'])
    def test_a_label_of_no_class_is_named(self, stranger: str) -> None:
        with pytest.raises(ValueError, match=f"data.train=x has the label '{stranger}'"):
            numbered(pa.array(['0', stranger]), ['dog', 'cat'], 'data.train=x')
