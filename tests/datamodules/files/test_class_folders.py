from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.files.class_folders import list_images_by_class, read_class_names
from tests.helpers.picture_files import write_picture


@pytest.fixture
def train(tmp_path: Path) -> Path:
    for image in ('sea_lion/b.jpg', 'sea_lion/deeper/a.jpg', 'cat/c.png', 'cat/notes.txt', '.cache/d.jpg'):
        write_picture(tmp_path / 'train' / image, 0)
    return tmp_path / 'train'


class TestReadClassNames:
    def test_names_are_those_of_the_folders_in_order(self, train: Path) -> None:
        assert list(read_class_names(train).items()) == [('cat', 'cat'), ('sea_lion', 'sea lion')]

    def test_classes_tsv_gives_names_and_order(self, train: Path) -> None:
        (train.parent / 'classes.tsv').write_text('sea_lion\tsea lion, otary\ncat\thouse  cat\n')
        assert list(read_class_names(train).items()) == [('sea_lion', 'sea lion'), ('cat', 'house cat')]

    def test_rejects_a_folder_without_a_name(self, train: Path) -> None:
        (train.parent / 'classes.tsv').write_text('cat\tcat\n')
        with pytest.raises(ValueError, match="has no line for the folder 'sea_lion': add one"):
            read_class_names(train)


class TestListImagesByClass:
    def test_lists_images_at_any_depth_with_their_label(self, train: Path) -> None:
        images, label = list_images_by_class(train, ['boat', 'cat', 'sea_lion'])
        assert images == ['cat/c.png', 'sea_lion/b.jpg', 'sea_lion/deeper/a.jpg']
        assert label.tolist() == [1, 2, 2]

    def test_rejects_a_folder_of_an_unknown_class(self, train: Path) -> None:
        with pytest.raises(ValueError, match="'sea_lion', which is not a class of the training images"):
            list_images_by_class(train, ['cat'])
