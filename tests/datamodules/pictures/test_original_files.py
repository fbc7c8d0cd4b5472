from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.pictures.images import ArrayImages, FolderImages, UnreadableImage
from datamodules.pictures.original_files import original_file
from datamodules.rows.table import PairTable
from tests.helpers.natural import natural_pictures

PIXELS = natural_pictures(1, 16, seed=0)[0].transpose(1, 2, 0)


def table(folder: Path, name: str) -> PairTable:
    return PairTable([name], ['a'], opener=FolderImages(folder))


@pytest.mark.parametrize(
    ('kind', 'name', 'extension'),
    [('JPEG', 'a.jpe', 'jpg'), ('PNG', 'a.PNG', 'png'), ('WEBP', 'a', 'webp'), ('JPEG', 'a.png', 'jpg')],
)
def test_a_file_that_readers_know_is_copied_under_the_extension_of_its_content(
    kind: str, name: str, extension: str, tmp_path: Path
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / name, kind)
    assert original_file(table(tmp_path, name), 0) == (extension, (tmp_path / name).read_bytes())


def test_others_become_png_with_all_pixels(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / 'a.bmp')
    in_memory = PairTable(['0'], ['a'], opener=ArrayImages(PIXELS[None]))
    for pairs in (table(tmp_path, 'a.bmp'), in_memory):
        extension, content = original_file(pairs, 0)
        with Image.open(io.BytesIO(content)) as image:
            assert (extension, image.format) == ('png', 'PNG') and np.array_equal(np.asarray(image), PIXELS)


def test_what_cannot_be_read_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage):
        original_file(table(tmp_path, 'missing.jpg'), 0)
    (tmp_path / 'a.gif').write_bytes(b'GIF89a')
    with pytest.raises(UnreadableImage):
        original_file(table(tmp_path, 'a.gif'), 0)
