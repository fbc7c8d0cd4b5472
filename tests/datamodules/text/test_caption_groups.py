from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.text.caption_groups import SCHEMA, Annotated, CaptionGroups, grouped, stored_groups

IMAGES: list[Annotated] = [
    ('a', [' one\n two ', 'three', 'one two']),
    ('b', []),
    ('c', ['', ' ', 'four']),
    ('gone', ['five']),
    (None, ['six', 'seven']),
    ('d', ['three', 'e', 'f', 'g', 'h', 'i']),
]
THERE = {name: f'folder/{name}' for name in 'abcd'}


def groups_of(images: Iterable[Annotated]) -> pa.Table:
    return pa.Table.from_batches(grouped(images), SCHEMA)


def found(usual: int | None = None) -> CaptionGroups:
    return CaptionGroups(groups_of(IMAGES), THERE, Path('folder'), 'data.root=x', usual)


class TestQuirks:
    def test_captions_are_cleaned_and_none_is_empty(self) -> None:
        captions = groups_of(IMAGES)['captions'].to_pylist()
        assert captions[:3] == [['one two', 'three', 'one two'], [], ['four']]

    def test_each_is_counted_in_one_line(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            found(usual=5)
        assert caplog.messages == [
            'data.root=x: 3 of 15 captions belong to images that do not exist; left out',
            'data.root=x: 1 of 6 images have no caption; left out',
            'data.root=x: 2 of 15 captions are empty; left out',
            'data.root=x: 1 of 15 captions repeat another one of the same image',
            'data.root=x: 1 of 15 captions hold a line break; taken for a space',
            'data.root=x: 1 of 6 images have more than 5 captions (1 of 6 captions)',
        ]

    def test_nothing_odd_is_nothing_said(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            CaptionGroups(groups_of([('a', ['x']), ('b', ['x'])]), THERE, Path(), 'data.root=x', 5)
        assert not caplog.messages

    @pytest.mark.parametrize('images', [[], [('gone', ['x'])]])
    def test_no_image_at_all_is_refused(self, images: list[Annotated]) -> None:
        with pytest.raises(
            ValueError, match=r"data\.root=x: none of its \d images is in 'folder'.*: unpack the images"
        ):
            CaptionGroups(groups_of(images), THERE, Path('folder'), 'data.root=x')


class TestPairs:
    def test_all_follow_the_published_order(self) -> None:
        images, captions = found().pairs(None, seed=0)
        assert images.to_pylist() == ['folder/a'] * 3 + ['folder/c'] + ['folder/d'] * 6
        assert captions.to_pylist() == ['one two', 'three', 'one two', 'four', 'three', 'e', 'f', 'g', 'h', 'i']

    def test_one_of_each_image_is_drawn_by_the_seed(self) -> None:
        groups = found()
        draws = [groups.pairs(1, seed) for seed in range(60)]
        assert all(images.to_pylist() == ['folder/a', 'folder/c', 'folder/d'] for images, _ in draws)
        assert draws[3][1] == found().pairs(1, seed=3)[1]
        assert {captions[2].as_py() for _, captions in draws} == {'three', 'e', 'f', 'g', 'h', 'i'}

    def test_a_draw_does_not_depend_on_the_other_images_that_are_there(self) -> None:
        few = CaptionGroups(groups_of(IMAGES), {'d': 'folder/d'}, Path(), 'x')
        every = found()
        assert all(few.pairs(1, seed)[1][0] == every.pairs(1, seed)[1][2] for seed in range(10))

    def test_or_on_how_many_are_read_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = found().joined(3, 0, ' + ')
        monkeypatch.setattr('datamodules.text.caption_groups._IMAGES_AT_ONCE', 2)
        parts = found()
        assert parts.groups['image'].num_chunks == 3
        assert all(one.equals(other) for one, other in zip(whole, parts.joined(3, 0, ' + '), strict=True))

    def test_several_are_joined_in_their_order(self) -> None:
        images, captions = found().joined(3, 0, ' + ')
        assert images.to_pylist() == ['folder/a', 'folder/c', 'folder/d']
        assert captions.to_pylist()[:2] == ['one two + three', 'four']
        words = captions[2].as_py().split(' + ')
        assert len(words) == 3 and sorted(words[1:]) == words[1:]

    def test_a_caption_that_is_there_twice_is_no_likelier(self) -> None:
        groups = CaptionGroups(groups_of([('a', ['x'] * 9 + ['y'])]), THERE, Path(), 'x')
        drawn = [groups.pairs(1, seed)[1][0].as_py() for seed in range(60)]
        assert 15 < drawn.count('y') < 45
        assert groups.joined(5, 0, ' + ')[1].to_pylist() == ['x + y']

    def test_may_be_of_some_images(self) -> None:
        keep = np.array([name == 'c' for name in found().names])
        assert found().pairs(None, 0, keep)[1].to_pylist() == ['four']
        with pytest.raises(ValueError, match=r'^data\.root=x has no usable pair'):
            found().pairs(None, 0, np.zeros(len(IMAGES), bool))


class TestStored:
    def test_files_are_read_once_until_they_change(self, tmp_path: Path) -> None:
        file, calls = tmp_path / 'a.json', []
        file.write_text('a')

        def read() -> Iterator[Annotated]:
            calls.append(1)
            yield from IMAGES

        for times, change in ((1, None), (1, None), (2, 'ab')):
            if change:
                file.write_text(change)
            assert stored_groups([file], tmp_path / 'cache', read).equals(groups_of(IMAGES))
            assert len(calls) == times
        os.utime(file, (0, 0))
        stored_groups([file], tmp_path / 'cache', read)
        assert len(calls) == 3

    def test_what_breaks_off_is_not_kept(self, tmp_path: Path) -> None:
        file = tmp_path / 'a.json'
        file.touch()

        def broken() -> Iterator[Annotated]:
            yield from IMAGES
            raise ValueError('is no whole JSON')

        with pytest.raises(ValueError, match='is no whole JSON'):
            stored_groups([file], tmp_path / 'cache', broken)
        assert not list((tmp_path / 'cache').iterdir())
