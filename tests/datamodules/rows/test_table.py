from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datamodules.pictures.images import ArrayImages
from datamodules.rows.row_sets import BLOCK
from datamodules.rows.table import UNKNOWN, PairTable

IMAGES = ArrayImages(np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8))


def build_table(captions: list[str], label: list[int] | None = None) -> PairTable:
    return PairTable([str(row) for row in range(len(captions))], captions, label, ('cat', 'dog'), opener=IMAGES)


class TestPairTable:
    def test_rows_are_numbered_from_0_in_the_order_given(self) -> None:
        pairs = build_table(['a', 'b', 'c'])
        assert len(pairs) == 3
        assert pairs.captions(np.array([2, 0, 0])) == ['c', 'a', 'a']
        assert np.asarray(pairs.open(2)).max() == 2

    def test_labels_default_to_unknown(self) -> None:
        assert build_table(['a', 'b']).label.tolist() == [UNKNOWN, UNKNOWN]
        assert build_table(['a', 'b'], [1, UNKNOWN]).label.tolist() == [1, UNKNOWN]

    def test_columns_become_arrow_arrays(self) -> None:
        column = pa.array(['0', '1'])
        assert PairTable(column, pa.chunked_array([column]), opener=IMAGES).image is column
        assert isinstance(build_table(['a']).caption, pa.Array)

    def test_part_renumbers(self) -> None:
        part = build_table(['a', 'b', 'c'], [0, 1, 0]).part(slice(1, 3))
        assert part.captions([0, 1]) == ['b', 'c'] and part.label.tolist() == [1, 0]
        assert np.asarray(part.open(0)).max() == 1

    def test_take_renumbers(self) -> None:
        taken = build_table(['a', 'b', 'c'], [0, 1, 0]).take(np.array([2, 1]))
        assert taken.captions([0, 1]) == ['c', 'b']
        assert taken.label.tolist() == [0, 1] and taken.classes == ('cat', 'dog')
        assert np.asarray(taken.open(0)).max() == 2

    def test_can_be_pickled(self) -> None:
        pairs = pickle.loads(pickle.dumps(build_table(['a', 'b'])))
        assert pairs.captions([1]) == ['b'] and np.asarray(pairs.open(1)).max() == 1


class TestFingerprint:
    def test_depends_only_on_the_content(self) -> None:
        whole = build_table(['a', 'b'], [0, 1])
        pieces = PairTable(
            pa.chunked_array([['0'], ['1']]), pa.chunked_array([['a'], ['b']]), [0, 1], ('cat', 'dog'), opener=IMAGES
        )
        assert whole.fingerprint == pieces.fingerprint and len(whole.fingerprint) == 16

    @pytest.mark.parametrize(
        'other', [build_table(['b', 'a']), build_table(['a', 'b', 'c']), build_table(['a', 'b'], [0, 1])]
    )
    def test_changes_with_captions_order_and_labels(self, other: PairTable) -> None:
        assert build_table(['a', 'b']).fingerprint != other.fingerprint

    def test_changes_with_the_boundaries_of_captions(self) -> None:
        assert build_table(['ab', 'c']).fingerprint != build_table(['a', 'bc']).fingerprint

    def test_changes_with_image_references(self) -> None:
        assert build_table(['a', 'a']).fingerprint != PairTable(['1', '0'], ['a', 'a'], opener=IMAGES).fingerprint

    def test_asks_for_some_names_at_a_time(self) -> None:
        asked = []

        class Renamed(ArrayImages):
            def names(self, references: pa.Array) -> pa.Array:
                asked.append(len(references))
                return pc.replace_substring(references, '.jpg', '')

        names = [str(row) for row in range(BLOCK + 1)]
        pairs = PairTable([f'{name}.jpg' for name in names], names, opener=Renamed(IMAGES.array))
        assert pairs.fingerprint == PairTable(names, names, opener=IMAGES).fingerprint
        assert asked == [BLOCK, 1]


class TestBadInput:
    def test_columns_of_different_length_are_rejected(self) -> None:
        with pytest.raises(ValueError, match='got 2 images, 1 captions'):
            PairTable(['0', '1'], ['a'], opener=IMAGES)
        with pytest.raises(ValueError, match='1 images, 1 captions and 2 labels'):
            PairTable(['0'], ['a'], [0, 1], opener=IMAGES)

    def test_an_empty_table_is_rejected(self) -> None:
        with pytest.raises(ValueError, match='no usable pair'):
            build_table([])
