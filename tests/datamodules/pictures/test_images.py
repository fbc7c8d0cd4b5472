from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datamodules.files.shard_references import strip_keys
from datamodules.pictures.images import MAX_PIXELS, ArrayImages, FolderImages, TarImages, UnreadableImage, decode
from tests.helpers.picture_files import SIDE, bomb, number_of, picture, truncated_photo, write_picture


def encode(image: Image.Image, kind: str = 'PNG') -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


class TestDecode:
    @pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP', 'GIF'])
    def test_reads_common_formats(self, kind: str) -> None:
        image = decode(picture(5, kind))
        assert number_of(image) == 5 and image.size == (SIDE, SIDE)

    @pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'CMYK', '1', 'LA', 'I;16'])
    def test_converts_every_mode_to_rgb(self, mode: str) -> None:
        kind = 'TIFF' if mode == 'CMYK' else 'PNG'
        image = decode(encode(Image.new(mode, (3, 2)), kind))
        assert image.mode == 'RGB' and image.info['mode'] == mode

    def test_keeps_the_aspect_ratio(self) -> None:
        assert decode(encode(Image.new('RGB', (31, 7)))).size == (31, 7)

    def test_reads_a_file(self, tmp_path: Path) -> None:
        write_picture(tmp_path / 'a.jpg', 3)
        assert number_of(decode(tmp_path / 'a.jpg')) == 3

    @pytest.mark.parametrize('data', [b'', b'no picture', picture(1)[:20], truncated_photo()])
    def test_rejects_damaged_data(self, data: bytes) -> None:
        with pytest.raises(UnreadableImage):
            decode(data)

    def test_rejects_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableImage, match=r'absent\.jpg'):
            decode(tmp_path / 'absent.jpg')

    @pytest.mark.parametrize('side', [int(MAX_PIXELS**0.5) + 1, 12_000, 30_000])
    def test_rejects_a_decompression_bomb_by_its_header(self, side: int) -> None:
        with pytest.raises(UnreadableImage, match='pixels'):
            decode(bomb(side))


class TestFolderImages:
    def test_references_are_relative_to_the_root(self, tmp_path: Path) -> None:
        write_picture(tmp_path / 'cats' / '1.png', 7)
        assert number_of(FolderImages(tmp_path)('cats/1.png')) == 7

    def test_absolute_references_ignore_the_root(self, tmp_path: Path) -> None:
        write_picture(tmp_path / '1.png', 7)
        assert number_of(FolderImages(tmp_path / 'elsewhere')(str(tmp_path / '1.png'))) == 7


class TestTarImages:
    def test_reads_a_member_at_its_offset(self, tmp_path: Path) -> None:
        (tmp_path / 'a:b.tar').write_bytes(b'x' * 100 + picture(4) + b'y' * 100)
        for key in ('000', 'old.tar:7/née\nx.y', '9:9'):
            assert number_of(TarImages(tmp_path)(f'a:b.tar:{key}:100:{len(picture(4))}')) == 4

    def test_names_a_member_by_shard_and_key(self) -> None:
        references = pa.array(['f/a.tar:9:9:512:30', 'B.TAR:x.tar:y\nz:0:1'])
        assert TarImages('.').names(references).to_pylist() == ['f/a.tar:9:9', 'B.TAR:x.tar:y\nz']
        assert strip_keys(references).to_pylist() == ['f/a.tar', 'B.TAR']

    @pytest.mark.parametrize('place', ['5000:10', '10:20', '90:100'])
    def test_rejects_bytes_that_are_not_a_picture(self, place: str, tmp_path: Path) -> None:
        (tmp_path / 'a.tar').write_bytes(bytes(100))
        with pytest.raises(UnreadableImage):
            TarImages(tmp_path)(f'a.tar:key:{place}')


class TestArrayImages:
    def test_reads_by_index(self) -> None:
        array = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
        assert np.array_equal(np.asarray(ArrayImages(array)('2')), array[2])


@pytest.mark.parametrize('opener', [FolderImages('a'), TarImages('a'), ArrayImages(np.zeros((1, 2, 2, 3), np.uint8))])
def test_openers_can_be_pickled(opener: FolderImages | TarImages | ArrayImages) -> None:
    assert type(pickle.loads(pickle.dumps(opener))) is type(opener)
