from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from datamodules.text import class_search
from datamodules.text.class_search import ClassSearch, mentions
from datamodules.text.prompts import imagenet_classes


def named(name: str, *texts: str) -> list[bool]:
    return [bool(found) for found in mentions(pa.array(texts), name)]


class TestMentions:
    def test_a_word_ends_where_letters_and_digits_do(self) -> None:
        assert named('suit', 'a suit.', 'suitcase', 'pursuit', 'Suit', 'suit2', 'my_suit!', '(suit)', '') == [
            True, False, False, True, False, True, True, False,
        ]  # fmt: skip

    def test_the_plural_counts(self) -> None:
        assert named('dog', 'two dogs', "the dog's bone", 'dogma') == [True, True, False]
        assert named('box', 'boxes', 'boxed') == [True, False]
        assert named('strawberry', 'strawberries', 'a strawberry') == [True, True]
        assert named('toy', 'toys', 'toies') == [True, False]

    def test_a_longer_name_around_it_does_not_matter(self) -> None:
        assert named('dog', 'a hot dog with mustard') == [True]

    def test_words_of_a_name_may_be_joined_in_several_ways(self) -> None:
        assert named('ice cream', 'ICE CREAM', 'ice  creams', 'ice-cream') == [True, True, True]
        assert named('ice cream', 'icecream', 'ice of cream', 'nice cream') == [False, False, False]
        assert named('T-shirt', 'a t-shirt', 'T shirts') == [True, True]

    def test_remarks_and_alternatives_in_a_name_are_understood(self) -> None:
        assert named('kite (bird of prey)', 'a kite', 'a bird of prey') == [True, False]
        assert named('cardboard box / carton', 'cardboard boxes', 'milk carton', 'box') == [True, True, False]

    def test_symbols_and_other_alphabets_are_letters_or_plain_text(self) -> None:
        assert named('C++', 'C++ code', 'C code', 'cc') == [True, False, False]
        assert named('café', 'LE CAFÉ.', 'cafés', 'cafe', 'caféine') == [True, True, False, False]
        assert named('a.b', 'a.b', 'axb') == [True, False]

    def test_imagenet_classes_with_symbols_name_themselves(self) -> None:
        symbols = [name for name in imagenet_classes() if re.search('[^A-Za-z ]', name)]
        assert len(symbols) > 30
        assert all(mentions(pa.array([f'a photo of the {name}.']), name)[0] for name in symbols)

    def test_reads_columns_in_chunks(self) -> None:
        found = mentions(pa.chunked_array([['a dog'], [], ['a cat', 'dogs']]), 'dog')
        assert found.dtype == bool
        assert found.tolist() == [True, False, True]

    @pytest.mark.parametrize('name', ['', ' ', '(bird)', '-'])
    def test_a_name_without_a_word_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match='has no word that a caption could contain'):
            named(name, 'a dog')


NAMES = (
    'dog', 'Hot Dog', 'ice cream', 'kite (bird of prey)', 'cherry', 'fox', 'T-shirt', "jack-o'-lantern", 'café',
    'missile', 'mashed potato / mash', 'St. Bernard', '???', 'bus',
)  # fmt: skip
CAPTIONS = [
    'a dog', 'DOGS!', 'dogged', 'two hot-dogs', 'hot and dog', 'ice  creams', 'ice_cream', 'cream ice', 'kites',
    'cherries', 'a cherry.', 'cherryes', 'foxes', 'foxy', 't-shirts', 'T shirt', "Jack-O'-lanterns", 'CAFÉS',
    'cafe', 'mash', 'mashed', 'mashed potatoes', 'st. bernard', 'st bernard', 'what???', 'buses', 'bu', '', '犬',
    'dog\u2019s', 'dog café fox',
]  # fmt: skip


def by_scanning(captions: list[str], name: str) -> list[int]:
    return np.flatnonzero(mentions(pa.array(captions), name)).tolist()


class TestClassSearch:
    @pytest.mark.parametrize('name', NAMES)
    def test_finds_what_reading_every_caption_finds(self, name: str) -> None:
        found = ClassSearch(pa.array(CAPTIONS), NAMES)(name)
        assert found.dtype == np.int64
        assert found.tolist() == by_scanning(CAPTIONS, name)

    def test_agrees_on_every_class_of_imagenet(self) -> None:
        names = imagenet_classes()
        draw = np.random.default_rng(0)
        captions = [f'{a}s with a {b.upper()} and {c}, {a[:4]}' for a, b, c in draw.choice(np.array(names), (300, 3))]
        search = ClassSearch(pa.array(captions), names)
        for name in names[::7]:
            assert search(name).tolist() == by_scanning(captions, name)

    def test_rows_go_on_from_part_to_part_whatever_the_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(class_search, '_ROWS_AT_ONCE', 7)
        search = ClassSearch(pa.chunked_array([CAPTIONS[:3], [], CAPTIONS[3:]], pa.string()), NAMES)
        for name in NAMES:
            assert search(name).tolist() == by_scanning(CAPTIONS, name)

    def test_looks_for_a_class_that_was_not_announced_by_reading(self) -> None:
        assert ClassSearch(pa.array(CAPTIONS), ['dog'])('fox').tolist() == by_scanning(CAPTIONS, 'fox')

    def test_finds_nothing_where_no_caption_holds_the_words(self) -> None:
        assert ClassSearch(pa.array(['a cat', 'a boat']), ['yak'])('yak').tolist() == []

    def test_a_name_without_a_word_is_refused_when_it_is_asked_for(self) -> None:
        search = ClassSearch(pa.array(CAPTIONS), ['dog', '()'])
        assert len(search('dog'))
        with pytest.raises(ValueError, match='has no word that a caption could contain'):
            search('()')
