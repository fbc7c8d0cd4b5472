from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from datamodules.csv_pairs import CSVPairs
from datamodules.pictures.confined import leave_out_outside
from datamodules.pictures.images import ArrayImages, FolderImages, UnreadableImage
from datamodules.rows.table import PairTable
from tests.helpers.picture_files import number_of, write_picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(('root/0.png', 'private/1.png')):
        write_picture(tmp_path / name, number)
    (tmp_path / 'root/link.png').symlink_to(tmp_path / 'private/1.png')
    return tmp_path


def table(root: Path, images: list[str], folder: Path | None = None) -> PairTable:
    return PairTable(images, [f'caption of {image}' for image in images], opener=FolderImages(root, folder))


def test_rows_outside_are_left_out_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = ['0.png', 'link.png', '../private/1.png', str(folder / 'private/1.png'), 'absent.png']
    with caplog.at_level(logging.WARNING):
        kept = leave_out_outside(table(folder / 'root', images), follow_outside=False)
    assert kept.image.to_pylist() == ['0.png', 'absent.png']
    assert kept.captions([1]) == ['caption of absent.png']
    (line,) = caplog.messages
    assert line.startswith('3 of 5 images are outside ') and "first: 'link.png'" in line
    assert 'data.follow_outside=true' in line


def test_they_stay_if_wanted(folder: Path) -> None:
    kept = leave_out_outside(table(folder / 'root', ['../private/1.png', 'link.png']), follow_outside=True)
    assert [number_of(kept.open(row)) for row in range(2)] == [1, 1]


def test_an_error_names_the_option_if_no_row_is_left(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"all 1 images are outside '.*root', .* or set data\.follow_outside=true"):
        leave_out_outside(table(folder / 'root', ['../private/1.png']), follow_outside=False)


def test_they_are_not_opened_either(folder: Path) -> None:
    """As when a link is made after the table was read."""
    with pytest.raises(UnreadableImage, match='outside') as error:
        table(folder / 'root', ['link.png']).open(0)
    assert error.value.fault == 'outside'


def test_the_folder_may_be_wider_than_the_root(folder: Path) -> None:
    kept = leave_out_outside(table(folder / 'root', ['0.png', 'link.png'], folder), follow_outside=False)
    assert len(kept) == 2


def test_other_pictures_have_no_folder() -> None:
    pairs = PairTable(['0'], ['a'], opener=ArrayImages(np.zeros((1, 2, 2, 3), np.uint8)))
    assert leave_out_outside(pairs, follow_outside=False) is pairs


@pytest.mark.parametrize('follow_outside', [False, True])
def test_a_data_set_confines_all_its_pictures(folder: Path, follow_outside: bool) -> None:
    lines = ['image,caption', '0.png,a cat', '../private/1.png,a dog']
    (folder / 'pairs.csv').write_text('\n'.join(lines))
    (folder / 'people/anna').mkdir(parents=True)
    (folder / 'people/anna/link.png').symlink_to(folder / 'private/1.png')
    write_picture(folder / 'people/anna/0.png', 0)
    data = CSVPairs(
        str(folder / 'pairs.csv'), str(folder / 'pairs.csv'), str(folder / 'root'),
        labeled={'people': str(folder / 'people')}, cache_dir=str(folder / 'cache'), templates=['a {}'],
        follow_outside=follow_outside, image_size=8, context_length=8, batch_size=1,
    )  # fmt: skip
    data.setup('validate')
    assert data.heldout is not None
    assert (len(data.source), len(data.heldout)) == ((2, 2) if follow_outside else (1, 1))
    assert [len(each) for each in data.evaluation_sets] == [2 if follow_outside else 1]
