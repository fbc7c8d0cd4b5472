from __future__ import annotations

import io
import struct
import zlib
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from datamodules.pictures.images import decode
from datamodules.pictures.modes import scale_to_bytes

RAMP = np.linspace(0, 1, 256)[None].repeat(2, 0)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(values: np.ndarray, color_type: int) -> bytes:
    """Encodes 16 bits per channel, uint16 (H, W, C), which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    lines = b''.join(b'\0' + line.astype('>u2').tobytes() for line in values)
    chunks = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(lines)) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + chunks


class TestRange:
    @pytest.mark.parametrize(
        ('values', 'kind'),
        [
            (np.round(RAMP * 65535).astype(np.uint16), 'PNG'),
            (np.round(RAMP * 65535).astype(np.uint16), 'TIFF'),
            (np.round(RAMP * 1e9 - 5e8).astype(np.int32), 'TIFF'),
            (RAMP.astype(np.float32), 'TIFF'),
            (RAMP.astype(np.float32) * 1e30 - 1e10, 'TIFF'),
        ],
        ids=['16 bits', '16 bits in TIFF', 'integers', 'floats', 'large floats'],
    )
    def test_pictures_of_more_than_8_bits_look_like_their_8_bit_twin(self, values: np.ndarray, kind: str) -> None:
        image = np.asarray(decode(encode(Image.fromarray(values), kind)))
        assert (image == np.round(RAMP * 255)[..., None]).all()

    @pytest.mark.parametrize(('color_type', 'mode'), [(2, 'RGB;16'), (4, 'RGBA;16'), (6, 'RGBA;16')])
    def test_color_that_uses_12_of_16_bits_is_not_dark(self, color_type: int, mode: str) -> None:
        color = np.round(RAMP * 4095).astype(np.uint16)[..., None].repeat(1 if color_type == 4 else 3, -1)
        opaque = np.full_like(color[..., :1], 65535)
        image = decode(deep_png(color if color_type == 2 else np.concatenate([color, opaque], -1), color_type))
        shown = np.asarray(image).astype(int)
        assert image.info['mode'] == mode and (shown[..., 0] == shown[..., 2]).all()
        assert np.abs(shown - RAMP[..., None] * 255).max() <= 17  # Pillow gives the upper 4 of 12 bits

    def test_uses_the_range_of_the_values_not_of_the_type(self) -> None:
        assert len(np.unique(scale_to_bytes(np.arange(1000, 1256, dtype=np.uint16)))) == 256

    def test_what_is_not_finite_gets_an_end_of_the_range(self) -> None:
        values = np.array([np.nan, -np.inf, -1, 0, 1, np.inf], np.float32)
        assert scale_to_bytes(values).tolist() == [0, 0, 0, 128, 255, 255]
        assert scale_to_bytes(np.full(2, np.nan, np.float32)).tolist() == [0, 0]

    @pytest.mark.parametrize(('value', 'byte'), [(0, 0), (7, 255), (-7, 0)])
    def test_a_single_value_is_black_or_white(self, value: int, byte: int) -> None:
        assert scale_to_bytes(np.array([value, value])).tolist() == [byte, byte]


class TestTransparency:
    LOGO = np.zeros((4, 4, 4), np.uint8)
    LOGO[1:3, 1:3, 3] = 255

    @pytest.mark.parametrize(
        ('mode', 'kind'),
        [('RGBA', 'PNG'), ('LA', 'PNG'), ('RGBA', 'WEBP'), ('RGBA', 'GIF'), ('RGBA', 'TIFF'), ('PA', 'TIFF')],
    )
    def test_a_black_logo_on_nothing_stands_on_white(self, mode: str, kind: str) -> None:
        logo = Image.fromarray(self.LOGO).convert(mode.replace('PA', 'P'))
        logo.putalpha(Image.fromarray(self.LOGO[..., 3]))
        image = np.asarray(decode(encode(logo, kind, **({'lossless': True} if kind == 'WEBP' else {}))))
        assert (image == 255 - self.LOGO[..., 3:]).all()

    @pytest.mark.parametrize('mode', ['L', '1', 'P', 'RGB'])
    def test_a_transparent_color_becomes_white(self, mode: str) -> None:
        transparent = (0, 0, 0) if mode == 'RGB' else 0
        assert np.asarray(decode(encode(Image.new(mode, (2, 2)), 'PNG', transparency=transparent))).min() == 255

    def test_half_transparent_pixels_are_blended(self) -> None:
        half = np.full((2, 2, 4), (0, 100, 200, 51), np.uint8)
        assert np.asarray(decode(encode(Image.fromarray(half), 'PNG')))[0, 0].tolist() == [204, 224, 244]

    def test_opaque_pictures_keep_their_pixels(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 4), np.uint8)
        pixels[..., 3] = 255
        for channels in (3, 4):
            assert (np.asarray(decode(encode(Image.fromarray(pixels[..., :channels]), 'PNG'))) == pixels[..., :3]).all()


class TestOrientation:
    UPRIGHT = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)[..., None].repeat(3, -1)
    TURNED: ClassVar = {  # as it is stored, by the number that turns it upright
        1: UPRIGHT,
        2: UPRIGHT[:, ::-1],
        3: UPRIGHT[::-1, ::-1],
        4: UPRIGHT[::-1],
        5: UPRIGHT.transpose(1, 0, 2),
        6: UPRIGHT.transpose(1, 0, 2)[::-1],
        7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],
        8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],
    }

    @pytest.mark.parametrize('orientation', TURNED)
    @pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
    def test_is_upright(self, orientation: int, kind: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = decode(encode(Image.fromarray(np.ascontiguousarray(self.TURNED[orientation])), kind, exif=exif))
        assert np.array_equal(np.asarray(image), self.UPRIGHT)

    @pytest.mark.parametrize('exif', [b'', b'Exif\0\0MM\0*\0\0\0\x08\0\xff' + b'\xff' * 99, b'Exif\0\0II'])
    def test_damaged_metadata_leave_it_as_it_is(self, exif: bytes) -> None:
        assert decode(encode(Image.fromarray(self.UPRIGHT), 'JPEG', exif=exif)).size == (6, 4)


def test_the_first_of_several_pictures_is_taken() -> None:
    red, blue = Image.new('RGB', (4, 4), 'red'), Image.new('RGB', (4, 4), 'blue')
    for kind in ('GIF', 'TIFF', 'WEBP', 'MPO'):
        image = decode(encode(red, kind, save_all=True, append_images=[blue]))
        assert image.getpixel((0, 0))[0] > 250
