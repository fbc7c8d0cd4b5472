from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from datamodules.files import atomic
from datamodules.pictures.cache import DecodedPictures, crop_square, decode_pictures, read_pictures
from datamodules.pictures.images import FolderImages, UnreadableImage
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from tests.helpers.tiny import TinyImages, tiny_table


def opened_references(table: PairTable) -> list[str]:
    return cast(TinyImages, table.opener).opened


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestCropSquare:
    def test_an_image_of_the_right_size_is_unchanged(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
        assert (crop_square(Image.fromarray(pixels), 6) == pixels.transpose(2, 0, 1)).all()

    @pytest.mark.parametrize(('height', 'width'), [(8, 16), (16, 8), (5, 5), (30, 31)])
    def test_every_size_becomes_square(self, height: int, width: int) -> None:
        image = crop_square(Image.fromarray(np.full((height, width, 3), 77, np.uint8)), 8)
        assert image.shape == (3, 8, 8)
        assert image.dtype == np.uint8
        assert (image == 77).all()

    def test_takes_the_center(self) -> None:
        pixels = np.zeros((8, 24, 3), np.uint8)
        pixels[:, 8:16] = 200
        image = crop_square(Image.fromarray(pixels), 8)
        assert (image[:, :, 2:-2] == 200).all()


class TestDecodePictures:
    def test_every_picture_is_decoded_once(self, tmp_path: Path) -> None:
        table = tiny_table(6, 2, seed=0)
        first, _ = decode_pictures(table, 8, tmp_path)
        assert opened_references(table) == [f'0:{row}' for row in range(6)]
        again, readable = decode_pictures(table, 8, tmp_path)
        assert len(opened_references(table)) == 6
        assert (first == again).all()
        assert readable.tolist() == [True] * 6

    def test_pictures_are_in_row_order(self, tmp_path: Path) -> None:
        table = tiny_table(5, 2, seed=0)
        images, _ = decode_pictures(table, 8, tmp_path)
        for row in range(5):
            assert (images[row] == crop_square(table.open(row), 8)).all()

    def test_workers_do_not_change_the_pictures(self, tmp_path: Path) -> None:
        alone, _ = decode_pictures(tiny_table(7, 2, seed=0, broken=[3]), 8, tmp_path / 'a')
        shared, readable = decode_pictures(tiny_table(7, 2, seed=0, broken=[3]), 8, tmp_path / 'b', workers=2)
        assert (alone == shared).all()
        assert readable.tolist() == [True] * 3 + [False] + [True] * 3

    def test_unreadable_pictures_are_black_and_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        table = tiny_table(6, 2, seed=0, broken=[2, 4])
        for _ in range(2):  # from the cache as well
            with caplog.at_level(logging.WARNING):
                images, readable = decode_pictures(table, 8, tmp_path)
            assert caplog.messages == ["2 of 6 images cannot be read and are left out (2 damaged); first: '0:2'"]
            assert np.flatnonzero(~readable).tolist() == [2, 4]
            assert not images[[2, 4]].any()
            caplog.clear()

    def test_another_size_or_table_gets_another_cache(self, tmp_path: Path) -> None:
        for seed, size in ((0, 8), (0, 6), (2, 8)):
            table = tiny_table(4, 2, seed)
            images, _ = decode_pictures(table, size, tmp_path)
            assert (images[1] == crop_square(table.open(1), size)).all()
        assert len(file_names(tmp_path)) == 3

    def test_lack_of_space_is_reported_before_decoding(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        table = tiny_table(4, 2, seed=0)
        monkeypatch.setattr(atomic.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=500))
        with pytest.raises(UsageError, match=r'pictures-\w+-8\.npy needs \d.* kB, and its disk has 500 bytes free'):
            decode_pictures(table, 8, tmp_path)
        assert opened_references(table) == [] and file_names(tmp_path) == []

    def test_an_interrupted_cache_is_made_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        table = tiny_table(4, 2, seed=0)
        with monkeypatch.context() as patch:
            patch.setattr('datamodules.pictures.cache.crop_square', lambda image, size: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                decode_pictures(table, 8, tmp_path)
        assert file_names(tmp_path) == []
        images, _ = decode_pictures(table, 8, tmp_path)
        assert (images[3] == crop_square(table.open(3), 8)).all()

    @pytest.mark.parametrize('workers', [0, 1])
    def test_a_failure_of_the_system_is_not_stored_as_a_fault_of_the_picture(
        self, workers: int, tmp_path: Path
    ) -> None:
        table = tiny_table(4, 2, seed=0)
        table.opener = FailingImages(errno.EMFILE)
        message = r"failed to read image '0:0' \(Too many open files\): repair that and start again"
        with pytest.raises(UsageError, match=message):
            decode_pictures(table, 8, tmp_path, workers)
        assert file_names(tmp_path) == []
        table.opener = FailingImages(errno.ENOENT)
        assert not decode_pictures(table, 8, tmp_path)[1].any()

    def test_gray_and_cmyk_pictures_are_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        modes = ['RGB', 'L', 'CMYK', 'L', 'RGB']
        for number, mode in enumerate(modes):
            Image.new('RGB', (9, 9), 'white').convert(mode).save(tmp_path / f'{number}.jpg')
        file_names = [f'{number}.jpg' for number in range(5)]
        with caplog.at_level(logging.WARNING):
            images, _ = decode_pictures(
                PairTable(file_names, file_names, opener=FolderImages(tmp_path)), 8, tmp_path / 'cache'
            )
        assert caplog.messages == ['3 of 5 images are not RGB and are converted: CMYK 1, L 2']
        assert (images > 250).all()


class TestReadPictures:
    def test_decoded_pictures_equal_cached_ones(self, tmp_path: Path) -> None:
        table = tiny_table(5, 2, seed=0, broken=[4])
        cached, _ = decode_pictures(table, 8, tmp_path)
        rows = np.array([3, 0, 4, 3])
        assert (read_pictures(DecodedPictures(table, 8), rows) == read_pictures(cached, rows)).all()

    def test_warns_about_unreadable_pictures(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            pictures = read_pictures(DecodedPictures(tiny_table(5, 2, seed=0, broken=[4]), 8), np.array([3, 4]))
        assert caplog.messages == ["image '0:4' cannot be read and is replaced by black"]
        assert pictures[0].any()
        assert not pictures[1].any()

    def test_no_rows_give_no_pictures(self) -> None:
        assert read_pictures(DecodedPictures(tiny_table(5, 2, seed=0), 8), np.empty(0, np.int64)).shape == (0, 3, 8, 8)


class TestChangesInAFolder:
    """A cache of a folder of pictures, after changes to the folder or the cache."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for number in range(6):
            write_shade(tmp_path / f'root/{number}.png', number)
        return tmp_path

    def test_an_edited_caption_keeps_the_cache(self, folder: Path) -> None:
        decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')
        again = refuse_to_decode(folder_table(folder / 'root', captions=[f'new {i}' for i in range(6)]))
        assert decode_pictures(again, 8, folder / 'cache')[0][3, 0, 0, 0] == 3

    def test_a_moved_or_copied_folder_keeps_its_cache(self, folder: Path) -> None:
        decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')
        shutil.copytree(folder / 'root', folder / 'copy')
        (folder / 'root').rename(folder / 'moved')
        os.utime(folder / 'copy/3.png', (0, 0))
        for name in ('copy', 'moved'):
            decode_pictures(refuse_to_decode(folder_table(folder / name)), 8, folder / 'cache')
        assert len(file_names(folder / 'cache')) == 1

    def test_a_replaced_picture_is_decoded_again(self, folder: Path) -> None:
        decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')
        state = (folder / 'root/3.png').stat()
        write_shade(folder / 'root/3.png', 200)
        os.utime(folder / 'root/3.png', ns=(state.st_atime_ns, state.st_mtime_ns))  # as an archive may set it
        assert decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')[0][3, 0, 0, 0] == 200

    def test_a_link_that_leads_to_another_folder_is_noticed(self, folder: Path) -> None:
        write_shade(folder / 'other/3.png', 200)
        for name, expected in (('root', 3), ('other', 200), ('root', 3)):
            (folder / 'link').unlink(missing_ok=True)
            (folder / 'link').symlink_to(name)
            assert decode_pictures(folder_table(folder / 'link'), 8, folder / 'cache')[0][3, 0, 0, 0] == expected
        assert len(file_names(folder / 'cache')) == 2

    def test_pictures_that_are_repaired_or_downloaded_later_are_decoded(self, folder: Path) -> None:
        whole = (folder / 'root/3.png').read_bytes()
        (folder / 'root/3.png').write_bytes(whole[:40])
        (folder / 'root/4.png').unlink()
        _, readable = decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')
        assert np.flatnonzero(~readable).tolist() == [3, 4]
        (folder / 'root/3.png').write_bytes(whole)
        write_shade(folder / 'root/4.png', 4)
        images, readable = decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')
        assert readable.all() and images[:, 0, 0, 0].tolist() == list(range(6))

    def test_two_folders_with_the_same_file_names_share_no_cache(self, folder: Path) -> None:
        for number in range(6):
            write_shade(folder / f'other/{number}.png', 100 + number)
            state = (folder / f'root/{number}.png').stat()
            os.utime(folder / f'other/{number}.png', ns=(state.st_atime_ns, state.st_mtime_ns))
        first, _ = decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')
        second, _ = decode_pictures(folder_table(folder / 'other'), 8, folder / 'cache')
        assert (second[:, 0, 0, 0] - first[:, 0, 0, 0]).tolist() == [100] * 6

    @pytest.mark.parametrize('damage', ['cut', 'empty', 'flip'])
    def test_a_damaged_cache_is_reported_with_its_file(self, damage: str, folder: Path) -> None:
        decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')
        (file,) = (folder / 'cache').iterdir()
        content = bytearray(file.read_bytes())
        content[300] ^= 1
        file.write_bytes({'cut': content[:-100], 'empty': b'', 'flip': content}[damage])
        with pytest.raises(UsageError, match=rf'{file.name} is damaged \(.*\): delete it, and it will be made again'):
            decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')
        file.unlink()
        assert decode_pictures(folder_table(folder / 'root'), 8, folder / 'cache')[0][3, 0, 0, 0] == 3


class FailingImages:
    """Fails to open any picture, for a reason of the system's."""

    def __init__(self, reason: int) -> None:
        self.reason = reason

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        raise UnreadableImage('no') from OSError(self.reason, 'no')


def write_shade(path: Path, shade: int) -> None:
    """Writes a picture of one shade; all files have the same size."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'P6 9 9 255\n' + bytes([shade]) * 243)


def folder_table(root: Path, captions: list[str] | None = None) -> PairTable:
    images = [f'{number}.png' for number in range(6)]
    return PairTable(images, captions or images, opener=FolderImages(root))


class RefusingImages(FolderImages):
    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        raise AssertionError(f'{reference} is decoded again')


def refuse_to_decode(table: PairTable) -> PairTable:
    table.opener = RefusingImages(cast(FolderImages, table.opener).root)
    return table
