from __future__ import annotations

import logging
import os
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.files.reading import (
    clean_captions,
    column,
    drop_empty_captions,
    list_images,
    require_folder,
    require_path,
)
from datamodules.usage_error import UsageError


class TestCaptions:
    @pytest.mark.parametrize(
        ('caption', 'clean'),
        [
            ('  a dog ', 'a dog'),
            ('a\r\ndog\n', 'a dog'),
            ('a\t \vdog', 'a dog'),
            ('\u00a0a\u2003dog\u3000\u2028\u0085', 'a dog'),
            (' \n ', ''),
            ('naïve “caf\u00e9” 犬', 'naïve “café” 犬'),
        ],
    )
    def test_white_space_becomes_one_space(self, caption: str, clean: str) -> None:
        assert clean_captions(pa.array([caption])).to_pylist() == [clean]

    def test_a_long_caption_is_cut(self) -> None:
        assert clean_captions(pa.array(['é ' * 10_000, 'a']))[0].as_py() == 'é ' * 5_000
        assert clean_captions(pa.chunked_array([], pa.string())).to_pylist() == []

    def test_empty_captions_are_dropped_and_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        pairs = pa.table({'caption': [' a', '', None, '\n', 'b'], 'image': ['0', '1', '2', '3', '4']})
        with caplog.at_level(logging.WARNING):
            kept = drop_empty_captions(pairs, 'data.root')
        assert kept.to_pydict() == {'caption': ['a', 'b'], 'image': ['0', '4']}
        assert '3 of 5 captions are empty' in caplog.text

    def test_a_table_without_captions_is_rejected(self) -> None:
        with pytest.raises(ValueError, match=r'data\.root has no usable pair'):
            drop_empty_captions(pa.table({'caption': [' ']}), 'data.root')

    def test_a_column_is_one_chunk(self) -> None:
        pairs = pa.table({'caption': pa.chunked_array([['a'], ['b']])})
        assert column(pairs, 'caption').to_pylist() == ['a', 'b']
        assert isinstance(column(drop_empty_captions(pairs, ''), 'caption'), pa.Array)


class TestFiles:
    def test_a_missing_path_names_the_argument(self, tmp_path: Path) -> None:
        assert require_path(str(tmp_path), 'data.root') == tmp_path
        with pytest.raises(ValueError, match=r"data\.root='.*absent' does not exist"):
            require_path(tmp_path / 'absent', 'data.root')

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        assert require_folder(tmp_path, 'data.train') == tmp_path
        (tmp_path / 'file').touch()
        with pytest.raises(
            ValueError, match=r"data\.train='.*file' is not a folder: name the one that holds the images"
        ):
            require_folder(tmp_path / 'file', 'data.train')

    def test_lists_only_images_sorted(self, tmp_path: Path) -> None:
        for name in ('b.JPEG', 'a.png', 'c.txt', '10.jpg', '9.jpg'):
            (tmp_path / name).touch()
        assert list_images(tmp_path) == ['10.jpg', '9.jpg', 'a.png', 'b.JPEG']

    def test_names_that_are_not_utf8_are_left_out(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in (b'caf\xe9.jpg', 'café.jpg'.encode()):
            (tmp_path / os.fsdecode(name)).touch()
        with caplog.at_level(logging.WARNING):
            assert list_images(tmp_path) == ['café.jpg']
        assert r"1 of 2 images have names that are not UTF-8 and are left out; first: 'caf\udce9.jpg'" in caplog.text


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / 'images').write_text('')
    with pytest.raises(UsageError, match=r"images' cannot be listed: Not a directory"):
        list_images(tmp_path / 'images')
