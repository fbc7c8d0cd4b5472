from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.pictures.images import FolderImages
from datamodules.pictures.shared import rows_of_equal_paths, rows_of_equal_pixels, warn_of_shared_pictures
from datamodules.pictures.store import PictureStore
from datamodules.pictures.stored import StoredPictures
from datamodules.rows.table import PairTable
from tests.helpers.picture_files import write_picture
from tests.helpers.tiny import TinyImages, tiny_table


def store_shades(shades: list[int], unreadable: int, checksum: list[int]) -> StoredPictures:
    images = np.zeros((len(shades), 3, 2, 2), np.uint8) + np.array(shades, np.uint8)[:, None, None, None]
    readable = np.arange(len(shades)) != unreadable
    return StoredPictures(Path(), images, readable, np.array(checksum, np.uint32), lambda rows: images[rows])


def test_pixels_are_compared_where_checksums_are_equal() -> None:
    train = store_shades([1, 2, 3, 0], unreadable=3, checksum=[7, 5, 6, 9])
    heldout = store_shades([4, 3, 0, 2, 3], unreadable=2, checksum=[7, 6, 9, 5, 6])
    assert rows_of_equal_pixels(heldout=heldout, train=train).tolist() == [1, 3, 4]


def test_paths_are_compared_whatever_the_roots(tmp_path: Path) -> None:
    (tmp_path / 'link').symlink_to(tmp_path)
    train = PairTable(['a/0.jpg', 'b/0.jpg'], ['x', 'y'], opener=FolderImages(tmp_path))
    for root, images, rows in (
        (tmp_path / 'link', ['c/0.jpg', 'b/0.jpg'], [1]),
        (tmp_path / 'a', ['0.jpg', '1.jpg'], [0]),
        (tmp_path / 'c', ['0.jpg', 'b/0.jpg'], []),
    ):
        heldout = PairTable(pa.chunked_array([images]), ['x', 'y'], opener=FolderImages(root))
        assert rows_of_equal_paths(heldout=heldout, train=train).tolist() == rows
    in_memory = PairTable(['a/0.jpg'], ['x'], opener=TinyImages([]))
    assert rows_of_equal_paths(heldout=in_memory, train=train).tolist() == []


def test_paths_are_compared_however_they_are_written(tmp_path: Path) -> None:
    for number in range(4):
        write_picture(tmp_path / 'a' / f'{number}.jpg', number)
    (tmp_path / 'a' / 'link.jpg').symlink_to('2.jpg')
    (tmp_path / 'b').symlink_to('a')
    train = PairTable(['0.jpg', '1.jpg', '2.jpg'], ['x'] * 3, opener=FolderImages(tmp_path / 'a'))
    images = ['./0.jpg', '../a/1.jpg', 'link.jpg', '../b/0.jpg', f'{tmp_path}/a/1.jpg', './3.jpg', 'long' * 2000]
    heldout = PairTable(images, ['x'] * len(images), opener=FolderImages(tmp_path / 'a'))
    assert rows_of_equal_paths(heldout=heldout, train=train).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('cached', [True, False])
def test_shared_pictures_are_counted(cached: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        write_picture(tmp_path / f'{number}.jpg', number)
    names = [f'{number}.jpg' for number in range(4)]
    train, heldout = (PairTable(part, part, opener=FolderImages(tmp_path)) for part in (names[:3], names[1:]))
    warn_of_shared_pictures(PictureStore(train, heldout, 8, tmp_path / 'cache', cached, 0))
    (message,) = caplog.messages
    assert message.startswith('2 of 3 held-out pairs show a picture that is also trained on')
    assert message.endswith("first: '1.jpg'")


def test_nothing_is_said_without_shared_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for heldout in (None, tiny_table(4, 2, seed=1)):
        warn_of_shared_pictures(PictureStore(tiny_table(4, 2, seed=0), heldout, 8, tmp_path, True, 0))
    assert caplog.messages == []
