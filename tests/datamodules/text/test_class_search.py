from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from datamodules.pictures.scenes import CLASSES as SCENES
from datamodules.text import class_search
from datamodules.text.class_search import ClassSearch, mentions, without_longer_names
from datamodules.text.prompts import imagenet_classes


def match(name: str, *texts: str) -> list[bool]:
    return [bool(found) for found in mentions(pa.array(texts), name)]


class TestMentions:
    def test_only_whole_words_match(self) -> None:
        assert match('suit', 'a suit.', 'suitcase', 'pursuit', 'Suit', 'suit2', 'my_suit!', '(suit)', '') == [
            True, False, False, True, False, True, True, False,
        ]  # fmt: skip

    def test_plurals_match(self) -> None:
        assert match('dog', 'two dogs', "the dog's bone", 'dogma') == [True, True, False]
        assert match('box', 'boxes', 'boxed') == [True, False]
        assert match('strawberry', 'strawberries', 'a strawberry') == [True, True]
        assert match('toy', 'toys', 'toies') == [True, False]

    def test_a_name_matches_within_a_longer_name(self) -> None:
        assert match('dog', 'a hot dog with mustard') == [True]

    def test_words_may_be_joined_by_spaces_hyphens_or_underscores(self) -> None:
        assert match('ice cream', 'ICE CREAM', 'ice  creams', 'ice-cream') == [True, True, True]
        assert match('ice cream', 'icecream', 'ice of cream', 'nice cream') == [False, False, False]
        assert match('T-shirt', 'a t-shirt', 'T shirts') == [True, True]

    def test_brackets_are_dropped_and_alternatives_split(self) -> None:
        assert match('kite (bird of prey)', 'a kite', 'a bird of prey') == [True, False]
        assert match('cardboard box / carton', 'cardboard boxes', 'milk carton', 'box') == [True, True, False]

    def test_symbols_and_accented_letters_match_literally(self) -> None:
        assert match('C++', 'C++ code', 'C code', 'cc') == [True, False, False]
        assert match('café', 'LE CAFÉ.', 'cafés', 'cafe', 'caféine') == [True, True, False, False]
        assert match('a.b', 'a.b', 'axb') == [True, False]

    def test_imagenet_names_with_symbols_match_themselves(self) -> None:
        symbols = [name for name in imagenet_classes() if re.search('[^A-Za-z ]', name)]
        assert len(symbols) > 30
        assert all(mentions(pa.array([f'a photo of the {name}.']), name)[0] for name in symbols)

    def test_reads_chunked_columns(self) -> None:
        found = mentions(pa.chunked_array([['a dog'], [], ['a cat', 'dogs']]), 'dog')
        assert found.dtype == bool
        assert found.tolist() == [True, False, True]

    @pytest.mark.parametrize('name', ['', ' ', '(bird)', '-'])
    def test_rejects_a_name_without_a_word(self, name: str) -> None:
        with pytest.raises(ValueError, match='has no word that a caption could contain'):
            match(name, 'a dog')


CIFAR10 = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


class TestLongerNames:
    CLASSES = (
        'crocodile',
        'crocodile head',
        'dog',
        'hot dog',
        'dog / hound',
        'kite (toy)',
        'kite (bird)',
        'small hot dog',
    )
    CAPTIONS = (
        'a crocodile head', 'Crocodile Heads crocodile head', 'a crocodile head beside a crocodile', 'crocodiles',
        'hot dogs', 'a dog with a hot dog', 'a hound', 'a kite', 'hot-dog, dog',
    )  # fmt: skip

    @pytest.mark.parametrize(
        ('name', 'rows'),
        [
            ('crocodile', [2, 3]),
            ('crocodile head', [0, 1, 2]),
            ('dog', [5, 8]),
            ('hot dog', [4, 5, 8]),
            ('dog / hound', [5, 6, 8]),
            ('kite (toy)', [7]),
        ],
    )
    def test_a_caption_names_the_class_of_the_longest_name(self, name: str, rows: list[int]) -> None:
        captions = pa.chunked_array([self.CAPTIONS[:4], self.CAPTIONS[4:]])
        found = np.flatnonzero(mentions(captions, name))
        assert without_longer_names(found, captions, name, self.CLASSES).tolist() == rows

    def test_names_that_contain_no_other_find_what_they_found(self) -> None:
        for classes in (CIFAR10, SCENES):
            captions = pa.array([f'a {a} by a {b}' for a in classes for b in classes])
            for name in classes:
                found = np.flatnonzero(mentions(captions, name))
                assert np.array_equal(without_longer_names(found, captions, name, classes), found)


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


def scan(captions: list[str], name: str) -> list[int]:
    return np.flatnonzero(mentions(pa.array(captions), name)).tolist()


class TestClassSearch:
    @pytest.mark.parametrize('name', NAMES)
    def test_agrees_with_a_scan_of_all_captions(self, name: str) -> None:
        found = ClassSearch(pa.array(CAPTIONS), NAMES)(name)
        assert found.dtype == np.int64
        assert found.tolist() == scan(CAPTIONS, name)

    def test_agrees_on_imagenet_classes(self) -> None:
        names = imagenet_classes()
        draw = np.random.default_rng(0)
        captions = [f'{a}s with a {b.upper()} and {c}, {a[:4]}' for a, b, c in draw.choice(np.array(names), (300, 3))]
        search = ClassSearch(pa.array(captions), names)
        for name in names[::7]:
            assert search(name).tolist() == scan(captions, name)

    def test_rows_continue_across_parts_and_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(class_search, '_PART_ROWS', 7)
        search = ClassSearch(pa.chunked_array([CAPTIONS[:3], [], CAPTIONS[3:]], pa.string()), NAMES)
        for name in NAMES:
            assert search(name).tolist() == scan(CAPTIONS, name)

    def test_scans_only_for_a_class_whose_words_are_all_common(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scanned: list[int] = []

        def count(captions: pa.Array, name: str) -> np.ndarray:
            scanned.append(len(captions))
            return mentions(captions, name)

        monkeypatch.setattr(class_search, '_COMMON', 3)  # 'dog' is in four captions, 'hot' in two
        monkeypatch.setattr(class_search, 'mentions', count)
        search = ClassSearch(pa.array(CAPTIONS), NAMES)
        for name in ('dog', 'Hot Dog'):
            assert search(name).tolist() == scan(CAPTIONS, name)
        assert scanned == [len(CAPTIONS), 2]

    def test_scans_for_a_class_that_is_not_indexed(self) -> None:
        assert ClassSearch(pa.array(CAPTIONS), ['dog'])('fox').tolist() == scan(CAPTIONS, 'fox')

    def test_finds_nothing_if_no_caption_contains_the_words(self) -> None:
        assert ClassSearch(pa.array(['a cat', 'a boat']), ['yak'])('yak').tolist() == []

    def test_rejects_a_name_without_a_word_only_when_searched_for(self) -> None:
        search = ClassSearch(pa.array(CAPTIONS), ['dog', '()'])
        assert len(search('dog'))
        with pytest.raises(ValueError, match='has no word that a caption could contain'):
            search('()')
