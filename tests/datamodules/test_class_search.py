from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datamodules import class_search
from datamodules.captions import imagenet_classes, mentions
from datamodules.class_search import ClassSearch

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
