from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from datamodules.pictures.cache import Decoded, decoded_images, pictures_name, read, square, stored_array
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from tests.helpers.tiny import TinyImages, tiny_table


def opened(table: PairTable) -> list[str]:
    return cast(TinyImages, table.opener).opened


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestSquare:
    def test_an_image_of_the_right_size_stays_as_it_is(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
        assert (square(Image.fromarray(pixels), 6) == pixels.transpose(2, 0, 1)).all()

    @pytest.mark.parametrize(('height', 'width'), [(8, 16), (16, 8), (5, 5), (30, 31)])
    def test_every_size_becomes_square(self, height: int, width: int) -> None:
        image = square(Image.fromarray(np.full((height, width, 3), 77, np.uint8)), 8)
        assert image.shape == (3, 8, 8)
        assert image.dtype == np.uint8
        assert (image == 77).all()

    def test_takes_the_center(self) -> None:
        pixels = np.zeros((8, 24, 3), np.uint8)
        pixels[:, 8:16] = 200
        image = square(Image.fromarray(pixels), 8)
        assert (image[:, :, 2:-2] == 200).all()


class TestStoredArray:
    def test_is_made_once(self, tmp_path: Path) -> None:
        calls = []

        def fill(array: np.ndarray) -> None:
            calls.append(array.shape)
            array[:] = 7

        path = tmp_path / 'new' / 'x.npy'
        for _ in range(2):
            array = stored_array(path, (3, 2), np.uint16, fill)
            assert array.tolist() == [[7, 7]] * 3
            assert array.dtype == np.uint16
        assert calls == [(3, 2)]
        assert names(tmp_path / 'new') == ['x.npy']

    def test_is_read_only(self, tmp_path: Path) -> None:
        array = stored_array(tmp_path / 'x.npy', (2,), np.uint8, lambda array: None)
        with pytest.raises(ValueError, match='read-only'):
            array[0] = 1

    def test_may_be_empty(self, tmp_path: Path) -> None:
        for _ in range(2):
            assert stored_array(tmp_path / 'x.npy', (0, 3, 4, 4), np.uint8, lambda array: None).shape == (0, 3, 4, 4)

    def test_an_interrupted_write_leaves_nothing(self, tmp_path: Path) -> None:
        def fail(array: np.ndarray) -> None:
            array[0] = 1
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stored_array(tmp_path / 'x.npy', (3,), np.uint8, fail)
        assert names(tmp_path) == []

    def test_what_a_killed_process_left_is_not_taken_for_the_array(self, tmp_path: Path) -> None:
        (tmp_path / 'x.0123.tmp').write_bytes(b'half')
        array = stored_array(tmp_path / 'x.npy', (3,), np.uint8, lambda array: array.fill(5))
        assert array.tolist() == [5, 5, 5]


class TestDecodedImages:
    def test_every_picture_is_decoded_once(self, tmp_path: Path) -> None:
        table = tiny_table(6, 2, seed=0)
        first, _ = decoded_images(table, 8, tmp_path)
        assert opened(table) == [f'0:{row}' for row in range(6)]
        again, readable = decoded_images(table, 8, tmp_path)
        assert len(opened(table)) == 6
        assert (first == again).all()
        assert readable.tolist() == [True] * 6

    def test_holds_the_pictures_of_the_rows(self, tmp_path: Path) -> None:
        table = tiny_table(5, 2, seed=0)
        images, _ = decoded_images(table, 8, tmp_path)
        for row in range(5):
            assert (images[row] == square(table.open(row), 8)).all()

    def test_workers_change_nothing(self, tmp_path: Path) -> None:
        alone, _ = decoded_images(tiny_table(7, 2, seed=0, broken=[3]), 8, tmp_path / 'a')
        shared, readable = decoded_images(tiny_table(7, 2, seed=0, broken=[3]), 8, tmp_path / 'b', workers=2)
        assert (alone == shared).all()
        assert readable.tolist() == [True] * 3 + [False] + [True] * 3

    def test_unreadable_pictures_are_counted_and_black(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        table = tiny_table(6, 2, seed=0, broken=[2, 4])
        for _ in range(2):  # from the cache as well
            with caplog.at_level(logging.WARNING):
                images, readable = decoded_images(table, 8, tmp_path)
            assert caplog.messages == ['2 of 6 images cannot be read and are left out; first: 0:2']
            assert np.flatnonzero(~readable).tolist() == [2, 4]
            assert not images[[2, 4]].any()
            caplog.clear()

    def test_another_size_or_table_is_another_cache(self, tmp_path: Path) -> None:
        for seed, size in ((0, 8), (0, 6), (2, 8)):
            table = tiny_table(4, 2, seed)
            images, _ = decoded_images(table, size, tmp_path)
            assert (images[1] == square(table.open(1), size)).all()
        assert len(list(tmp_path.glob('*.readable.npy'))) == 3

    def test_another_folder_is_another_cache(self) -> None:
        table, moved = tiny_table(4, 2, seed=0), tiny_table(4, 2, seed=0)
        moved.opener.root = 'elsewhere'
        assert pictures_name(table, 8) == pictures_name(tiny_table(4, 2, seed=0), 8) != pictures_name(moved, 8)

    def test_an_interruption_is_made_good(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        table = tiny_table(4, 2, seed=0)
        with monkeypatch.context() as patch:
            patch.setattr('datamodules.pictures.cache.square', lambda image, size: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                decoded_images(table, 8, tmp_path)
        assert names(tmp_path) == []
        images, _ = decoded_images(table, 8, tmp_path)
        assert (images[3] == square(table.open(3), 8)).all()

    def test_pictures_in_gray_or_in_inks_are_counted_when_they_are_decoded(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        modes = ['RGB', 'L', 'CMYK', 'L', 'RGB']
        for number, mode in enumerate(modes):
            Image.new('RGB', (9, 9), 'white').convert(mode).save(tmp_path / f'{number}.jpg')
        names = [f'{number}.jpg' for number in range(5)]
        with caplog.at_level(logging.WARNING):
            images, _ = decoded_images(PairTable(names, names, opener=FolderImages(tmp_path)), 8, tmp_path / 'cache')
        assert caplog.messages == ['3 of 5 images are not RGB and are converted: CMYK 1, L 2']
        assert (images > 250).all()


class TestRead:
    def test_decodes_what_no_cache_holds(self, tmp_path: Path) -> None:
        table = tiny_table(5, 2, seed=0, broken=[4])
        cached, _ = decoded_images(table, 8, tmp_path)
        rows = np.array([3, 0, 4, 3])
        assert (read(Decoded(table, 8), rows) == read(cached, rows)).all()

    def test_tells_of_pictures_that_cannot_be_read(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            pictures = read(Decoded(tiny_table(5, 2, seed=0, broken=[4]), 8), np.array([3, 4]))
        assert caplog.messages == ['image 0:4 cannot be read and is taken as black']
        assert pictures[0].any()
        assert not pictures[1].any()

    def test_no_rows_are_no_pictures(self) -> None:
        assert read(Decoded(tiny_table(5, 2, seed=0), 8), np.empty(0, np.int64)).shape == (0, 3, 8, 8)
