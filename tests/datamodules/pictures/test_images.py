from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datamodules.files.shard_references import strip_keys
from datamodules.pictures.images import (
    MAX_PIXELS,
    ArrayImages,
    FolderImages,
    TarImages,
    UnreadableImage,
    decode,
    decode_file,
)
from tests.helpers.picture_files import SIDE, bomb, number_of, picture, truncated_photo, write_picture


def encode(image: Image.Image, kind: str = 'PNG', **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def fault_of(data: bytes) -> str | None:
    """What is wrong with a picture; ``None`` if it can be read."""
    try:
        image = decode(data, min_side=8)
    except UnreadableImage as error:
        return error.fault
    assert image.mode == 'RGB'
    return None


def crafted_pictures() -> list[bytes]:
    """Small pictures of every format, with metadata, from which others are made by changing bytes."""
    exif = Image.Exif()
    exif[0x0112], exif[271] = 6, 'camera'
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 12, 4), np.uint8))
    pictures = [encode(noise, kind, exif=exif) for kind in ('PNG', 'WEBP')]
    pictures += [encode(noise.convert('RGB'), 'JPEG', exif=exif, progressive=progressive) for progressive in (0, 1)]
    pictures += [encode(noise, 'TIFF', exif=exif, compression=name) for name in ('tiff_lzw', 'tiff_deflate', 'raw')]
    pictures += [encode(noise.convert('F'), 'TIFF'), encode(noise.convert('RGB'), 'TIFF', compression='jpeg')]
    pictures += [encode(noise.convert('P'), 'GIF', transparency=3), encode(noise.convert('I;16'), 'PNG')]
    return [*pictures, encode(noise.convert('RGB'), 'BMP'), encode(noise.convert('RGB'), 'PPM')]


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
        assert number_of(decode_file(tmp_path / 'a.jpg')) == 3

    @pytest.mark.parametrize('data', [b'', b'no picture', picture(1)[:20], truncated_photo()])
    def test_rejects_damaged_data(self, data: bytes) -> None:
        with pytest.raises(UnreadableImage):
            decode(data)

    def test_rejects_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableImage, match=r'absent\.jpg'):
            decode_file(tmp_path / 'absent.jpg')

    @pytest.mark.parametrize('side', [int(MAX_PIXELS**0.5) + 1, 12_000, 30_000])
    def test_rejects_a_decompression_bomb_by_its_header(self, side: int) -> None:
        with pytest.raises(UnreadableImage, match='pixels'):
            decode(bomb(side))

    def test_rejects_many_passes_over_the_pixels(self) -> None:
        photo = encode(Image.new('RGB', (64, 64)), 'JPEG', progressive=True)
        last = photo.rindex(b'\xff\xda')
        for scans, fault in ((10, None), (1000, 'too large')):
            assert fault_of(photo[:last] + scans * photo[last:-2] + photo[-2:]) == fault

    def test_rejects_metadata_that_take_minutes_to_parse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert fault_of(b'P2\n1 1\n255\n' + 1000 * b'#\n' + b'7') == 'too large'
        assert fault_of(b'P2\n1 1\n255\n#\n7') is None
        monkeypatch.setattr('datamodules.pictures.images.MAX_JPEG_BYTES', 1000)
        assert fault_of(picture(1) + bytes(1000)) == 'too large'

    def test_a_crafted_picture_is_unreadable_and_prints_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        rng = np.random.default_rng(0)
        for original in crafted_pictures():
            for _ in range(40):
                data = bytearray(original)
                for _ in range(rng.integers(1, 9)):
                    data[rng.integers(len(data))] = rng.integers(256)
                fault_of(bytes(data[: rng.integers(len(data) + 1)] if rng.random() < 0.2 else data))
        assert capfd.readouterr() == ('', '')


class TestFolderImages:
    def test_references_are_relative_to_the_root(self, tmp_path: Path) -> None:
        write_picture(tmp_path / 'cats' / '1.png', 7)
        assert number_of(FolderImages(tmp_path)('cats/1.png')) == 7

    def test_absolute_references_into_the_root_are_read(self, tmp_path: Path) -> None:
        write_picture(tmp_path / '1.png', 7)
        assert number_of(FolderImages(tmp_path)(str(tmp_path / '1.png'))) == 7

    def test_tells_why_a_picture_is_not_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / 'fifo.png')
        (tmp_path / 'folder.png').mkdir()
        (tmp_path / 'text.png').write_text('no picture')
        with (tmp_path / 'huge.png').open('wb') as file:
            file.truncate(1 << 40)
        names = ['fifo.png', 'folder.png', 'text.png', 'huge.png', 'absent.png', 'x' * 300, '../0.png', 'nul\0']
        faults = ['not a file', 'not a file', 'damaged', 'too large', 'missing', 'missing', 'outside', 'damaged']
        images = FolderImages(tmp_path)
        for name, fault in zip(names, faults, strict=True):
            with pytest.raises(UnreadableImage) as error:
                images(name)
            assert error.value.fault == fault

    def test_is_identified_without_waiting_for_a_fifo(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / 'fifo.png')
        assert FolderImages(tmp_path).identity(pa.array(['fifo.png', 'nul\0', 'x' * 300]))


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

    def test_a_huge_member_is_not_read(self) -> None:
        with pytest.raises(UnreadableImage, match='over the limit'):
            TarImages('absent')(f'a.tar:0:{1 << 40}')


class TestArrayImages:
    def test_reads_by_index(self) -> None:
        array = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
        assert np.array_equal(np.asarray(ArrayImages(array)('2')), array[2])


@pytest.mark.parametrize('opener', [FolderImages('a'), TarImages('a'), ArrayImages(np.zeros((1, 2, 2, 3), np.uint8))])
def test_openers_can_be_pickled(opener: FolderImages | TarImages | ArrayImages) -> None:
    assert type(pickle.loads(pickle.dumps(opener))) is type(opener)
