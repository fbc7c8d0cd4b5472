from __future__ import annotations

import logging

import pyarrow as pa
import pytest

from datamodules.rows.table import UNKNOWN
from datamodules.text.labels import number_labels
from datamodules.text.prompts import imagenet_classes


class TestNumberLabels:
    def test_names_are_numbered_in_alphabetical_order(self) -> None:
        label, classes = number_labels(pa.array(['dog', ' cat', 'dog', '', None]), 'imagenet', '')
        assert classes == ('cat', 'dog') and label.tolist() == [1, 0, 1, UNKNOWN, UNKNOWN]

    def test_given_class_names_determine_the_numbers(self) -> None:
        label, classes = number_labels(pa.chunked_array([['dog'], ['cat']]), ['dog', 'boat', 'cat'], '')
        assert classes == ('dog', 'boat', 'cat') and label.tolist() == [0, 2]

    def test_numeric_labels_are_indices_into_the_class_names(self) -> None:
        label, classes = number_labels(pa.array(['1', '0', '']), ['dog', 'cat'], '')
        assert classes == ('dog', 'cat') and label.tolist() == [1, 0, UNKNOWN]

    def test_numeric_labels_without_class_names_are_those_of_imagenet_with_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            label, classes = number_labels(pa.array(['999', '0']), 'imagenet', 'data.train=x')
        assert classes == imagenet_classes() and label.tolist() == [999, 0]
        assert 'set data.class_names' in caplog.text

    @pytest.mark.parametrize('unknown', ['frog', '2', '-1', '1.0'])
    def test_an_unknown_label_is_named_in_the_error(self, unknown: str) -> None:
        with pytest.raises(ValueError, match=f"data.train=x has the label '{unknown}'"):
            number_labels(pa.array(['0', unknown]), ['dog', 'cat'], 'data.train=x')
