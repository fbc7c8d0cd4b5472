from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from datamodules.pictures.images import decode_file
from datamodules.pictures.torchvision_sets import DatasetImages, list_files


class TestIdentity:
    """Whether the cache of one torchvision data set is taken for that of another."""

    def identity(self, data: Any) -> bytes:
        return DatasetImages(data).identity(pa.array(['x:0']))

    def test_pixels_in_memory_count(self) -> None:
        first, second = (SimpleNamespace(data=np.full((2, 4, 4, 3), shade, np.uint8)) for shade in (0, 1))
        assert self.identity(first) != self.identity(second)
        assert self.identity(first) == self.identity(SimpleNamespace(data=torch.zeros(2, 4, 4, 3, dtype=torch.uint8)))

    def test_listed_files_count_wherever_the_root_is(self, tmp_path: Path) -> None:
        (tmp_path / 'a').mkdir()
        (tmp_path / 'a/0.jpg').write_text('one')
        shutil.copytree(tmp_path / 'a', tmp_path / 'b')
        first, moved = (
            SimpleNamespace(root=str(tmp_path / name), samples=[(str(tmp_path / name / '0.jpg'), 0)]) for name in 'ab'
        )
        assert self.identity(first) == self.identity(moved)
        (tmp_path / 'b/0.jpg').write_text('two')
        assert self.identity(first) != self.identity(moved)

    def test_of_others_a_few_pictures_count(self) -> None:
        class Shade(list[Any]):
            def __getitem__(self, row: Any) -> Any:
                return Image.new('L', (2, 2), super().__getitem__(row)), 0

        assert self.identity(Shade([3])) == self.identity(Shade([3])) != self.identity(Shade([4]))

    def test_names_that_are_not_utf8_are_not_looked_up(self) -> None:
        assert list_files(SimpleNamespace(samples=[('caf\udce9.jpg', 0)])) is None
        assert list_files(SimpleNamespace(samples=[('café.jpg', 0)])) == ['café.jpg']


class TestFiles:
    def test_16_bits_and_transparency_look_as_in_other_tables(self, tmp_path: Path) -> None:
        (tmp_path / 'dog').mkdir()
        ramp = np.linspace(0, 4095, 64).astype(np.uint16)[None].repeat(4, 0)
        pictures = {'deep': Image.fromarray(ramp), 'logo': Image.new('RGBA', (4, 4))}
        for row, (name, picture) in enumerate(pictures.items()):
            picture.save(tmp_path / f'dog/{name}.png')
            shown = DatasetImages(ImageFolder(str(tmp_path)))(f'x:{row}')
            expected = decode_file(tmp_path / f'dog/{name}.png')
            assert np.array_equal(np.asarray(shown), np.asarray(expected)) and shown.info == expected.info

    def test_a_transform_is_applied(self, tmp_path: Path) -> None:
        (tmp_path / 'dog').mkdir()
        Image.new('RGB', (4, 4)).save(tmp_path / 'dog/0.png')
        data = ImageFolder(str(tmp_path), transform=lambda image: image.resize((2, 2)))
        assert DatasetImages(data)('x:0').size == (2, 2)
