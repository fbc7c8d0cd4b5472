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

    @pytest.mark.parametrize('names', ['imagenet', ['dog', 'cat', 'boat']])
    def test_numbers_may_have_become_fractions(self, names: str | list[str]) -> None:
        label, _ = number_labels(pa.array(['0.0', '1.0', '02', '1.', '2.00', '1.000000000000000000e+00']), names, '')
        assert label.tolist() == [0, 1, 2, 1, 2, 1]
        assert number_labels(pa.array(['1.200000000000000000e+01', '12.0']), 'imagenet', '')[0].tolist() == [12, 12]

    @pytest.mark.parametrize('name', ['1.5', '1e5', '1.5e+00', '1234567890', '1.0e+99', 'e+00'])
    def test_other_texts_are_names(self, name: str) -> None:
        assert number_labels(pa.array([name, '7']), 'imagenet', '')[1] == tuple(sorted([name, '7']))

    @pytest.mark.parametrize(
        'nothing',
        ['', None, ' ', 'nan', 'NaN', '<NA>', 'None', 'null', '-1', '-1.0', 'NA', 'N/A', '#N/A', r'\N', 'NaT',
         '-1.00', '-2', '-1.000000000000000000e+00'],
    )  # fmt: skip
    @pytest.mark.parametrize('other', ['1', 'cat'])
    def test_no_class_is_counted(self, other: str, nothing: str | None, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            label, classes = number_labels(pa.array([nothing, other, nothing], pa.string()), 'imagenet', 'data.train=x')
        assert label.tolist() == [UNKNOWN, classes.index('cat') if other == 'cat' else 1, UNKNOWN]
        assert 'data.train=x: 2 of 3 rows have no class' in caplog.messages

    def test_a_class_may_be_called_none(self) -> None:
        label, _ = number_labels(pa.array(['none', 'dog']), ['none', 'dog'], '')
        assert label.tolist() == [0, 1]
        assert number_labels(pa.array(['NA', 'CL']), ['CL', 'NA'], '')[0].tolist() == [1, 0]

    def test_labels_that_differ_in_case_are_one_class(self) -> None:
        label, classes = number_labels(pa.array(['dog', 'Dog', 'cat']), 'imagenet', '')
        assert classes == ('Dog', 'cat') and label.tolist() == [0, 0, 1]
        assert number_labels(pa.array(['DOG']), ['cat', 'dog'], '')[0].tolist() == [1]

    def test_labels_that_look_alike_are_one_class(self) -> None:
        label, classes = number_labels(pa.array(['caf\u00e9', 'cafe\u0301', 'hot dog', 'hot  dog']), 'imagenet', '')
        assert len(classes) == 2 and label.tolist() == [0, 0, 1, 1]
        assert number_labels(pa.array(['cafe\u0301']), ['bar', 'caf\u00e9'], '')[0].tolist() == [1]

    def test_names_may_be_numbers(self) -> None:
        label, _ = number_labels(pa.array(['1', '7', '0']), ['7', '1', '0'], '')
        assert label.tolist() == [1, 0, 2]

    def test_names_and_numbers_without_class_names_are_names_with_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            label, classes = number_labels(pa.array(['dog', '7', '1.0']), 'imagenet', 'data.train=x')
        assert classes == ('1.0', '7', 'dog') and label.tolist() == [2, 1, 0]
        assert "some labels are numbers, such as '7', and some names: all are read as names" in caplog.text

    def test_unknown_labels_are_counted_with_near_names(self, caplog: pytest.LogCaptureFixture) -> None:
        values = pa.array(['dog', 'doog', 'doog', '9', '9.5', '', '1' * 5000])
        with caplog.at_level(logging.WARNING):
            label, _ = number_labels(values, ['dog', 'cat'], 'data.train=x')
        assert label.tolist() == [0, *[UNKNOWN] * 6] and '1 of 7 rows have no class' in caplog.text
        assert (
            'data.train=x: 5 of 7 rows have a label that is not among the classes and count as without one: '
            "'doog' (near 'dog'), '9', '9.5', '111" in caplog.text
        )

    @pytest.mark.parametrize('unknown', ['frog', '2', '2.5'])
    def test_a_column_without_any_known_label_is_refused(self, unknown: str) -> None:
        with pytest.raises(ValueError, match=f"x has the label '{unknown}', .* of the 2 classes: set data.class_names"):
            number_labels(pa.array(['', unknown]), ['dog', 'cat'], 'data.train=x')
        with pytest.raises(ValueError, match=r"neither a name nor an index of ImageNet's 1,000 classes"):
            number_labels(pa.array(['1000']), 'imagenet', 'data.train=x')

    def test_a_column_may_be_empty(self) -> None:
        assert number_labels(pa.array([], pa.string()), ['dog'], '')[0].tolist() == []
        assert number_labels(pa.array([None], pa.string()), ['dog'], '')[0].tolist() == [UNKNOWN]
