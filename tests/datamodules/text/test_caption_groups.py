from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.text.caption_groups import SCHEMA, AnnotatedImage, CaptionGroups, group_captions, stored_groups

IMAGES: list[AnnotatedImage] = [
    ('a', [' one\n two ', 'three', 'one two']),
    ('b', []),
    ('c', ['', ' ', 'four']),
    ('gone', ['five']),
    (None, ['six', 'seven']),
    ('d', ['three', 'e', 'f', 'g', 'h', 'i']),
]
REFERENCES = {name: f'folder/{name}' for name in 'abcd'}


def groups_of(images: Iterable[AnnotatedImage]) -> pa.Table:
    return pa.Table.from_batches(group_captions(images), SCHEMA)


def build_groups(expected: int | None = None) -> CaptionGroups:
    return CaptionGroups(groups_of(IMAGES), REFERENCES, Path('folder'), 'data.root=x', expected)


class TestQuirks:
    def test_captions_are_cleaned_and_empty_ones_dropped(self) -> None:
        captions = groups_of(IMAGES)['captions'].to_pylist()
        assert captions[:3] == [['one two', 'three', 'one two'], [], ['four']]

    def test_each_kind_is_counted_in_one_log_line(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            build_groups(expected=5)
        assert caplog.messages == [
            'data.root=x: 3 of 15 captions belong to images that do not exist; left out',
            'data.root=x: 1 of 6 images have no caption; left out',
            'data.root=x: 2 of 15 captions are empty; left out',
            'data.root=x: 1 of 15 captions repeat another one of the same image',
            'data.root=x: 1 of 15 captions contain a line break; replaced by a space',
            'data.root=x: 1 of 6 images have more than 5 captions (1 of 6 captions)',
        ]

    def test_ordinary_captions_log_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            CaptionGroups(groups_of([('a', ['x']), ('b', ['x'])]), REFERENCES, Path(), 'data.root=x', 5)
        assert not caplog.messages

    @pytest.mark.parametrize('images', [[], [('gone', ['x'])]])
    def test_rejects_a_folder_without_any_of_the_images(self, images: list[AnnotatedImage]) -> None:
        with pytest.raises(
            ValueError, match=r"data\.root=x: none of its \d images is in 'folder'.*: unpack the images"
        ):
            CaptionGroups(groups_of(images), REFERENCES, Path('folder'), 'data.root=x')


class TestPairs:
    def test_all_captions_are_in_the_published_order(self) -> None:
        images, captions = build_groups().pairs(None, seed=0)
        assert images.to_pylist() == ['folder/a'] * 3 + ['folder/c'] + ['folder/d'] * 6
        assert captions.to_pylist() == ['one two', 'three', 'one two', 'four', 'three', 'e', 'f', 'g', 'h', 'i']

    def test_the_seed_draws_one_caption_of_each_image(self) -> None:
        groups = build_groups()
        draws = [groups.pairs(1, seed) for seed in range(60)]
        assert all(images.to_pylist() == ['folder/a', 'folder/c', 'folder/d'] for images, _ in draws)
        assert draws[3][1] == build_groups().pairs(1, seed=3)[1]
        assert {captions[2].as_py() for _, captions in draws} == {'three', 'e', 'f', 'g', 'h', 'i'}

    def test_a_draw_does_not_depend_on_which_other_images_exist(self) -> None:
        few = CaptionGroups(groups_of(IMAGES), {'d': 'folder/d'}, Path(), 'x')
        every = build_groups()
        assert all(few.pairs(1, seed)[1][0] == every.pairs(1, seed)[1][2] for seed in range(10))

    def test_a_draw_does_not_depend_on_the_batch_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = build_groups().join(3, 0, ' + ')
        monkeypatch.setattr('datamodules.text.caption_groups._BATCH_IMAGES', 2)
        parts = build_groups()
        assert parts.groups['image'].num_chunks == 3
        assert all(one.equals(other) for one, other in zip(whole, parts.join(3, 0, ' + '), strict=True))

    def test_several_captions_are_joined_in_their_order(self) -> None:
        images, captions = build_groups().join(3, 0, ' + ')
        assert images.to_pylist() == ['folder/a', 'folder/c', 'folder/d']
        assert captions.to_pylist()[:2] == ['one two + three', 'four']
        words = captions[2].as_py().split(' + ')
        assert len(words) == 3 and sorted(words[1:]) == words[1:]

    def test_a_repeated_caption_is_not_drawn_more_often(self) -> None:
        groups = CaptionGroups(groups_of([('a', ['x'] * 9 + ['y'])]), REFERENCES, Path(), 'x')
        drawn = [groups.pairs(1, seed)[1][0].as_py() for seed in range(60)]
        assert 15 < drawn.count('y') < 45
        assert groups.join(5, 0, ' + ')[1].to_pylist() == ['x + y']

    def test_keep_selects_images(self) -> None:
        keep = np.array([name == 'c' for name in build_groups().names])
        assert build_groups().pairs(None, 0, keep)[1].to_pylist() == ['four']
        with pytest.raises(ValueError, match=r'^data\.root=x has no usable pair'):
            build_groups().pairs(None, 0, np.zeros(len(IMAGES), bool))


class TestStored:
    def test_files_are_read_once_unless_they_change(self, tmp_path: Path) -> None:
        file, calls = tmp_path / 'a.json', []
        file.write_text('a')

        def read() -> Iterator[AnnotatedImage]:
            calls.append(1)
            yield from IMAGES

        for times, content in ((1, 'a'), (1, 'a'), (2, 'b')):
            file.write_text(content)
            os.utime(file, (0, 0))
            assert stored_groups([file], tmp_path / 'cache', read).equals(groups_of(IMAGES))
            assert len(calls) == times

    def test_an_interrupted_read_leaves_no_cache(self, tmp_path: Path) -> None:
        file = tmp_path / 'a.json'
        file.touch()

        def broken() -> Iterator[AnnotatedImage]:
            yield from IMAGES
            raise ValueError('is not valid JSON')

        with pytest.raises(ValueError, match='is not valid JSON'):
            stored_groups([file], tmp_path / 'cache', broken)
        assert not list((tmp_path / 'cache').iterdir())
