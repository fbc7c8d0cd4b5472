from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from datamodules.attacks import AttackPool, Poison
from datamodules.attacks.pool import translate_labels
from datamodules.rows.table import UNKNOWN, PairTable
from datamodules.text.prompts import imagenet_classes
from tests.datamodules.attacks.pools import CLASSES, captioned_pool, labeled_pool, opener


class TestIndex:
    def test_finds_a_class_in_any_case(self) -> None:
        assert labeled_pool().index('Ice Cream') == 3

    def test_names_the_closest_classes(self) -> None:
        pool = replace(labeled_pool(), classes=imagenet_classes())
        assert pool.index('banana') == 954
        with pytest.raises(
            ValueError, match=r"target 'bananna' is not one of ImageNet's 1,000 classes: did you mean banana"
        ):
            pool.index('bananna')

    def test_refuses_a_name_of_two_classes(self) -> None:
        pool = replace(labeled_pool(), classes=imagenet_classes())
        for name in ('missile', 'sunglasses'):
            with pytest.raises(ValueError, match=f"'{name}' is the name of 2 classes"):
                pool.index(name)

    def test_names_the_fix_if_there_are_no_classes(self) -> None:
        with pytest.raises(ValueError, match=r'Other classes are set by data\.class_names'):
            replace(labeled_pool(), classes=()).index('cat')


class TestAllowed:
    def test_labeled_images_of_the_class_are_left_out(self) -> None:
        rows = labeled_pool().allowed('heldout', 1)
        assert rows.tolist() == [row for row in range(100) if row % 5 != 1]

    def test_labels_take_precedence_over_captions(self) -> None:
        table = PairTable(['0', '1'], ['a dog', 'a cat'], [0, 1], ('cat', 'dog'), opener=opener('train', 2))
        assert AttackPool(table, None, ('cat', 'dog')).allowed('train', 1).tolist() == [0]

    def test_an_unlabeled_image_is_left_out_if_any_of_its_captions_names_the_class(self) -> None:
        rows = captioned_pool().allowed('train', 3)
        assert rows.tolist() == [2 * image for image in range(100) if image % 5 != 3]

    def test_captions_decide_if_no_label_means_the_class(self) -> None:
        table = PairTable(['0', '1'], ['a dog', 'a tree'], [0, 0], ('animal',), opener=opener('train', 2))
        assert AttackPool(table, None, CLASSES).allowed('train', 1).tolist() == [1]

    def test_a_taken_row_takes_all_rows_of_its_image(self) -> None:
        pool = captioned_pool()
        pool.take([Poison(source=41, origin='heldout', target=0, caption='a cat', replaces=7)])
        assert 40 not in pool.allowed('heldout', 4)
        assert 6 not in pool.allowed('train', 4)
        assert pool.taken == {'train': {7}, 'heldout': {41}}

    def test_all_rows_of_a_taken_image_are_taken(self) -> None:
        pool = captioned_pool()
        pool.take([Poison(source=3, origin='train', target=0, caption='a cat')])
        assert np.flatnonzero(pool.of_taken_images('train')).tolist() == [2, 3]

    def test_a_second_image_is_taken_like_the_first(self) -> None:
        pool = labeled_pool()
        pool.take([Poison(source=41, origin='heldout', target=0, caption='a cat', other=5, share=0.5)])
        assert pool.taken == {'train': set(), 'heldout': {5, 41}}

    def test_chunked_columns_give_the_same_images(self) -> None:
        whole = captioned_pool().table
        chunks = [pa.chunked_array([c[:30], c[30:]]) for c in (whole.image, whole.caption)]
        pool = AttackPool(PairTable(*chunks, opener=whole.opener), None, CLASSES)
        assert np.array_equal(pool.allowed('train', 2), captioned_pool().allowed('train', 2))


class TestShowing:
    def test_untaken_images_of_the_class_are_given_by_their_first_row(self) -> None:
        pool = captioned_pool()
        pool.take([Poison(source=3, origin='train', target=0, caption='a cat')])
        assert pool.showing('train', 1).tolist() == [2 * image for image in range(100) if image % 5 == 1 and image != 1]
        assert labeled_pool().showing('heldout', 2).tolist() == list(range(2, 100, 5))

    def test_untaken_keeps_one_row_of_each_free_image(self) -> None:
        pool = captioned_pool()
        pool.take([Poison(source=5, origin='train', target=0, caption='a cat')])
        assert pool.untaken('train', np.array([1, 0, 4, 7])).tolist() == [1, 7]
        assert pool.same_image('train', [0, 1, 2]).tolist() == [0, 0, 1]

    def test_rows_showing_a_class_may_be_taken(self) -> None:
        pool = captioned_pool()
        pool.take([Poison(source=3, origin='train', target=0, caption='a cat')])
        named = [2 * image + 1 for image in range(100) if image % 5 == 1]
        assert pool.rows_showing('train', 1).tolist() == named
        assert labeled_pool().rows_showing('heldout', 2).tolist() == list(range(2, 100, 5))


def test_images_are_given_by_their_first_row_in_any_order_of_rows() -> None:
    table = PairTable(['b', 'a', 'b', 'c', 'a'], ['x'] * 5, opener=opener('train', 1))
    assert AttackPool(table, None, CLASSES).images('train').tolist() == [0, 1, 3]


def test_captions_of_a_class_are_those_that_name_it() -> None:
    assert captioned_pool().captions_of(3).tolist() == [2 * image + 1 for image in range(100) if image % 5 == 3]


def test_the_fix_is_named_if_there_are_no_heldout_images() -> None:
    with pytest.raises(ValueError, match='no held-out images to poison: set source: train'):
        labeled_pool(heldout=None).origin('heldout')


class TestTranslated:
    def test_labels_are_matched_by_name(self) -> None:
        label = translate_labels(np.array([0, 1, UNKNOWN, 2]), ('dog', 'cow', 'cat'), ('cat', 'dog'))
        assert label.tolist() == [1, UNKNOWN, UNKNOWN, 0]

    def test_labels_keep_their_numbers_if_the_names_are_equal(self) -> None:
        twice = ('missile', 'cat', 'missile')
        assert translate_labels(np.array([2, UNKNOWN]), twice, twice).tolist() == [2, UNKNOWN]

    def test_labels_without_names_are_unknown(self) -> None:
        assert translate_labels(np.array([UNKNOWN]), (), CLASSES).tolist() == [UNKNOWN]
