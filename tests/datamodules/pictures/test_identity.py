from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.pictures.cache import pictures_name
from datamodules.pictures.identity import identify_pictures
from datamodules.pictures.images import ArrayImages, FolderImages, TarImages, UnreadableImage
from datamodules.rows.table import ImageOpener, PairTable


def build_table(opener: ImageOpener, images: list[str], captions: list[str] | None = None) -> PairTable:
    return PairTable(images, captions or images, opener=opener)


def write_shard(path: Path, contents: list[bytes]) -> list[str]:
    """Writes a tar file and returns references to its members."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for number, content in enumerate(contents):
            member = tarfile.TarInfo(f'{number}.jpg')
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with tarfile.open(path) as tar:
        return [f'{path.name}:{member.offset_data}:{member.size}' for member in tar]


class TestFolder:
    def test_depends_on_the_order_of_the_rows(self, tmp_path: Path) -> None:
        for name in 'ab':
            (tmp_path / name).write_text(name)
        first, second = (identify_pictures(build_table(FolderImages(tmp_path), list(order))) for order in ('ab', 'ba'))
        assert first != second


class TestShards:
    @pytest.fixture
    def references(self, tmp_path: Path) -> list[str]:
        return write_shard(tmp_path / 'a/0.tar', [b'one', b'two', b'three'])

    def test_a_moved_shard_keeps_its_identity(self, references: list[str], tmp_path: Path) -> None:
        identity = identify_pictures(build_table(TarImages(tmp_path / 'a'), references))
        shutil.move(tmp_path / 'a', tmp_path / 'b')
        assert identify_pictures(build_table(TarImages(tmp_path / 'b'), references, ['x', 'y', 'z'])) == identity

    def test_a_rewritten_shard_has_another_identity(self, references: list[str], tmp_path: Path) -> None:
        shard = tmp_path / 'a/0.tar'
        identity = identify_pictures(build_table(TarImages(tmp_path / 'a'), references))
        before = shard.stat()
        assert write_shard(shard, [b'one', b'TWO', b'three']) == references
        assert identify_pictures(build_table(TarImages(tmp_path / 'a'), references)) != identity
        os.utime(shard, ns=(0, before.st_mtime_ns))
        assert identify_pictures(build_table(TarImages(tmp_path / 'a'), references)) != identity


class TestOtherOpeners:
    def test_arrays_are_identified_by_their_pixels(self) -> None:
        pixels = np.zeros((2, 3, 3, 3), np.uint8)
        identity = identify_pictures(build_table(ArrayImages(pixels), ['0', '1']))
        assert identify_pictures(build_table(ArrayImages(pixels.copy()), ['0', '1'], ['a', 'b'])) == identity
        pixels[1, 2, 2, 2] = 1
        assert identify_pictures(build_table(ArrayImages(pixels), ['0', '1'])) != identity

    def test_unknown_openers_are_identified_by_captions_and_a_few_pictures(self) -> None:
        class Shades:
            def __init__(self, *shades: int) -> None:
                self.shades = shades

            def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
                if self.shades[int(reference)] < 0:
                    raise UnreadableImage('cut')
                return Image.new('RGB', (2, 2), (self.shades[int(reference)],) * 3)

        identity = identify_pictures(build_table(Shades(1, -1), ['0', '1']))
        assert identify_pictures(build_table(Shades(1, -1), ['0', '1'])) == identity
        assert identify_pictures(build_table(Shades(1, 2), ['0', '1'])) != identity
        assert identify_pictures(build_table(Shades(1, -1), ['0', '1'], ['a', 'b'])) != identity


def test_cache_names_depend_on_pixels_and_size() -> None:
    first, second = (build_table(ArrayImages(np.full((1, 3, 3, 3), shade, np.uint8)), ['0']) for shade in (0, 1))
    assert len({pictures_name(table, size) for table in (first, second) for size in (8, 9)}) == 4
