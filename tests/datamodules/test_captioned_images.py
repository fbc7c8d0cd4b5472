from __future__ import annotations

import logging
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from datamodules.captioned_images import CaptionedImages
from datamodules.pictures.images import UnreadableImage
from datamodules.pictures.torchvision_sets import DatasetImages
from datamodules.rows.table import PairTable
from datamodules.text.prompts import imagenet_templates
from datamodules.usage_error import UsageError
from tests.helpers.picture_files import number_of, write_picture

CLASSES = ('car', 'ice_cream', 'dog')


def write_classes(folder: Path, images: int, nested: str = '') -> None:
    """Class c of the sorted folders has pictures of number c."""
    for number, name in enumerate(sorted(CLASSES)):
        for image in range(images):
            write_picture(folder / name / nested / f'{name}_{image}.JPEG', number)


def write_mnist(root: Path, images: int) -> None:
    """MNIST as published: image i of class i modulo 10, all its pixels i; test images are twice as bright."""
    raw = root / 'MNIST' / 'raw'
    raw.mkdir(parents=True)
    for part, factor in (('train', 1), ('t10k', 2)):
        pixels = (factor * np.arange(images, dtype=np.uint8))[:, None, None] * np.ones((28, 28), np.uint8)
        header = struct.pack('>IIII', 0x803, images, 28, 28)
        (raw / f'{part}-images-idx3-ubyte').write_bytes(header + pixels.tobytes())
        label = bytes(number % 10 for number in range(images))
        (raw / f'{part}-labels-idx1-ubyte').write_bytes(struct.pack('>II', 0x801, images) + label)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_classes(tmp_path / 'train', 20)
    write_classes(tmp_path / 'test', 2)
    return tmp_path


class TestFolders:
    def test_classes_are_folders_in_alphabetical_order(self, root: Path) -> None:
        table = CaptionedImages(str(root)).load_table()
        assert table.classes == ('car', 'dog', 'ice cream')
        assert table.label.tolist() == [0] * 20 + [1] * 20 + [2] * 20
        assert all(number_of(table.open(row)) == table.label[row] for row in range(60))

    def test_test_images_are_held_out_with_their_labels(self, root: Path) -> None:
        heldout = CaptionedImages(str(root)).load_heldout()
        assert heldout is not None and heldout.classes == ('car', 'dog', 'ice cream')
        assert heldout.label.tolist() == [0, 0, 1, 1, 2, 2]
        (root / 'test').rename(root / 'val')
        assert len(CaptionedImages(str(root)).load_heldout() or ()) == 6
        (root / 'val').rename(root / 'other')
        assert CaptionedImages(str(root)).load_heldout() is None

    def test_training_and_test_images_of_the_same_name_have_different_references(self, root: Path) -> None:
        write_classes(root / 'train2', 2)
        module = CaptionedImages(train=str(root / 'train2'), test=str(root / 'test'), caption_templates=['a {}'])
        heldout = module.load_heldout()
        assert heldout is not None and heldout.fingerprint != module.load_table().fingerprint

    def test_images_may_be_in_subfolders(self, tmp_path: Path) -> None:
        write_classes(tmp_path / 'train', 2, nested='images')
        table = CaptionedImages(train=str(tmp_path / 'train')).load_table()
        assert table.image[0].as_py() == 'train/car/images/car_0.JPEG' and number_of(table.open(5)) == 2

    def test_classes_tsv_gives_names_and_order(self, root: Path) -> None:
        (root / 'classes.tsv').write_text(
            'dog\thot dog, frankfurter\nboat\tboat\nice_cream\ticecream\ncar\tcar, auto\n'
        )
        module = CaptionedImages(str(root), caption_templates=['a {}'])
        table, heldout = module.load_table(), module.load_heldout()
        assert table.classes == ('hot dog', 'boat', 'icecream', 'car')
        assert np.bincount(table.label).tolist() == [20, 0, 20, 20] and table.captions([0]) == ['a hot dog']
        assert heldout is not None and heldout.classes == table.classes and heldout.label.tolist() == [0, 0, 2, 2, 3, 3]

    def test_class_names_rename_classes(self, root: Path) -> None:
        table = CaptionedImages(
            str(root), class_names=['auto', 'hound', 'gelato'], caption_templates=['a {}']
        ).load_table()
        assert table.classes == ('auto', 'hound', 'gelato') and table.captions([0, 59]) == ['a auto', 'a gelato']


class TestCaptions:
    def test_default_to_the_prompts_of_clip_s_authors(self, root: Path) -> None:
        table = CaptionedImages(str(root)).load_table()
        known = {template.replace('{}', table.classes[c]) for template in imagenet_templates() for c in range(3)}
        assert set(table.caption.to_pylist()) <= known and len(set(table.caption.to_pylist())) > 20

    def test_name_the_class_of_the_row(self, root: Path) -> None:
        table = CaptionedImages(str(root), caption_templates=['a {} here', 'some {}\n{}']).load_table()
        names = [table.classes[c] for c in table.label]
        for name, caption in zip(names, table.caption.to_pylist(), strict=True):
            assert caption in (f'a {name} here', f'some {name} {name}')

    def test_depend_only_on_the_caption_seed(self, root: Path) -> None:
        captions = [
            CaptionedImages(str(root), caption_seed=s, seed=i).load_table().caption for i, s in enumerate((0, 0, 1))
        ]
        assert captions[0] == captions[1] and captions[0] != captions[2]

    def test_do_not_change_in_a_subset(self, root: Path) -> None:
        whole = CaptionedImages(str(root)).load_table()
        part = CaptionedImages(str(root), subset=7).load_table()
        captions = dict(zip(whole.image.to_pylist(), whole.caption.to_pylist(), strict=True))
        assert [captions[image] for image in part.image.to_pylist()] == part.caption.to_pylist()


class TestSubset:
    def test_balances_classes(self, root: Path) -> None:
        table = CaptionedImages(str(root), subset=9).load_table()
        assert np.bincount(table.label).tolist() == [3, 3, 3]
        assert table.image.to_pylist() == sorted(table.image.to_pylist())

    def test_chance_ignores_classes(self, root: Path) -> None:
        counts = {
            tuple(
                np.bincount(CaptionedImages(str(root), subset=9, subset_by='chance', subset_seed=s).load_table().label)
            )
            for s in range(4)
        }
        assert len(counts) > 1 and all(sum(count) == 9 for count in counts)

    @pytest.mark.parametrize('by', ['class', 'chance'])
    def test_one_that_skips_another_shares_no_image_with_it(self, root: Path, by: Any) -> None:
        first, second = (
            CaptionedImages(str(root), subset=30, subset_by=by, subset_skip=skip).load_table() for skip in (0, 30)
        )
        assert {*first.image.to_pylist(), *second.image.to_pylist()} == {
            *CaptionedImages(str(root)).load_table().image.to_pylist()
        }

    def test_a_subset_larger_than_the_data_is_rejected(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r'data\.subset=61 must be from 1 to 60'):
            CaptionedImages(str(root), subset=61).load_table()


class TestDatasets:
    @pytest.fixture
    def mnist(self, tmp_path: Path) -> dict[str, Any]:
        write_mnist(tmp_path, 20)
        return {'dataset': 'torchvision.datasets.MNIST', 'dataset_kwargs': {'root': str(tmp_path)}}

    def test_pictures_labels_and_names_come_from_the_data_set(self, mnist: dict[str, Any]) -> None:
        table = CaptionedImages(**mnist).load_table()
        assert table.label.tolist() == [*range(10), *range(10)] and table.classes[3] == '3 - three'
        assert table.open(7).mode == 'RGB' and np.asarray(table.open(7)).mean() == 7

    def test_the_other_part_is_held_out(self, mnist: dict[str, Any]) -> None:
        module = CaptionedImages(**mnist, caption_templates=['a {}'])
        heldout = module.load_heldout()
        assert heldout is not None and np.asarray(heldout.open(7)).mean() == 14
        assert heldout.fingerprint != module.load_table().fingerprint
        mnist['dataset_kwargs'] |= {'train': False}
        swapped = CaptionedImages(**mnist).load_heldout()
        assert swapped is not None and np.asarray(swapped.open(7)).mean() == 7
        assert CaptionedImages(**mnist, heldout_kwargs={}).load_heldout() is None

    def test_heldout_kwargs_select_the_heldout_images(self, root: Path) -> None:
        arguments: dict[str, Any] = {
            'dataset': 'torchvision.datasets.ImageFolder', 'dataset_kwargs': {'root': str(root / 'train')}
        }  # fmt: skip
        assert CaptionedImages(**arguments).load_heldout() is None
        heldout = CaptionedImages(**arguments, heldout_kwargs={'root': str(root / 'test')}).load_heldout()
        assert heldout is not None and heldout.label.tolist() == [0, 0, 1, 1, 2, 2] and number_of(heldout.open(5)) == 2

    def test_folders_left_behind_are_no_classes(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        for folder in ('.ipynb_checkpoints', '__MACOSX', 'dog/.ipynb_checkpoints'):
            write_picture(root / 'test' / folder / '0.jpg', 9)
        folders = CaptionedImages(
            dataset='torchvision.datasets.ImageFolder', dataset_kwargs={'root': str(root / 'test')}
        )
        table = folders.load_table()
        assert table.classes == ('car', 'dog', 'ice_cream') and table.label.tolist() == [0, 0, 1, 1, 2, 2]
        assert [number_of(table.open(row)) for row in range(6)] == table.label.tolist()
        assert (
            'data.dataset: 3 of 9 images are hidden or left behind by a system; '
            "first: '.ipynb_checkpoints/0.jpg'; left out" in caplog.messages
        )

    def test_a_class_that_is_not_utf8_is_named(self, root: Path) -> None:
        (root / 'test/dog').rename(root / 'test' / os.fsdecode(b'd\xff'))
        folders = CaptionedImages(
            dataset='torchvision.datasets.ImageFolder', dataset_kwargs={'root': str(root / 'test')}
        )
        with pytest.raises(UsageError, match=r"the class 'd\\udcff' is not UTF-8"):
            folders.load_table()

    def test_pipes_and_programs_are_not_opened(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.mkfifo(root / 'test/dog/1.png')
        (root / 'test/dog/2.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n')
        (tmp_path / 'gs').write_text(f'#!/bin/sh\ntouch {tmp_path}/started\n')
        (tmp_path / 'gs').chmod(0o755)
        monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
        folder = CaptionedImages(
            dataset='torchvision.datasets.ImageFolder', dataset_kwargs={'root': str(root / 'test')}
        )
        table, faults = folder.load_table(), []
        for row in range(len(table)):
            try:
                table.open(row)
            except UnreadableImage as error:
                faults.append(error.fault)
        assert sorted(faults) == ['damaged', 'not a file'] and not (tmp_path / 'started').exists()

    def test_class_names_are_needed_if_the_data_set_has_none(self) -> None:
        fake: dict[str, Any] = {
            'dataset': 'torchvision.datasets.FakeData',
            'dataset_kwargs': {'size': 12, 'image_size': [3, 4, 4], 'num_classes': 2},
        }
        table = CaptionedImages(**fake, class_names=['cat', 'dog'], caption_templates=['a {}']).load_table()
        assert [table.classes[c] for c in table.label] == [caption[2:] for caption in table.caption.to_pylist()]
        with pytest.raises(ValueError, match=r'data\.class_names must name the 2 classes of the data, in order; got 0'):
            CaptionedImages(**fake).load_table()

    def test_unreadable_pictures_raise_unreadable_image(self, root: Path) -> None:
        table = CaptionedImages(dataset='torchvision.datasets.ImageFolder', dataset_kwargs={'root': str(root / 'test')})
        pairs = table.load_table()
        (root / 'test' / 'dog' / 'dog_0.JPEG').write_bytes(b'no picture')
        assert isinstance(pairs.opener, DatasetImages)
        with pytest.raises(UnreadableImage):
            pairs.open(2)


class Labeled(Dataset[Any]):
    """Black pictures with the given labels; a label that is an error is raised."""

    classes = ('cat', 'dog')

    def __init__(self, labels: list[Any]) -> None:
        self.given = labels

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, row: int) -> tuple[Image.Image, Any]:
        if isinstance(self.given[row], Exception):
            raise self.given[row]
        return Image.new('RGB', (8, 8)), self.given[row]


class TestLabelsOfDatasets:
    def load(self, labels: list[Any]) -> PairTable:
        return CaptionedImages(dataset=f'{__name__}.Labeled', dataset_kwargs={'labels': labels}).load_table()

    def test_images_without_a_label_or_that_cannot_be_decoded_are_counted(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            table = self.load([1, -1, OSError('damaged'), 0.0, torch.tensor(1)])
        assert (
            table.label.tolist() == [1, 0, 1] and 'data.dataset: 2 of 5 images have no label; left out' in caplog.text
        )

    @pytest.mark.parametrize('labels', [['cat', 'dog'], [0, math.nan], [0, None], [[0, 1], [1, 0]], [0.5, 1], [0, [1]]])
    def test_other_labels_than_class_numbers_are_refused(self, labels: list[Any]) -> None:
        with pytest.raises(UsageError, match=r'Labeled. has not one class number for each image'):
            self.load(labels)


class TestBadInput:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({}, 'give exactly one of data.root, data.train'),
            ({'root': 'a', 'dataset': 'b'}, 'give exactly one of data.root, data.train'),
            ({'root': 'a', 'test': 'b'}, 'data.test goes with data.train'),
            ({'root': 'a', 'caption_templates': []}, r'data\.caption_templates is empty: give'),
            ({'root': 'a', 'caption_templates': ['a %s']}, r"data\.caption_templates has 'a %s': write {} where"),
        ],
    )
    def test_contradicting_arguments_are_rejected(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CaptionedImages(**arguments)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'root': 'absent'}, r"data\.root='absent' does not exist"),
            ({'train': 'absent'}, r"data\.train='absent' does not exist"),
            (
                {'dataset': 'torchvision.datasets.Cifar10'},
                r"data\.dataset='torchvision.datasets.Cifar10' does not exist",
            ),
            ({'dataset': 'CIFAR10'}, r"data\.dataset='CIFAR10' does not exist"),
            ({'dataset': 'os.path.join'}, r"data\.dataset='os.path.join' is not a data set"),
            ({'dataset': 'torchvision.datasets.MNIST'}, r'cannot be opened with data\.dataset_kwargs={}: .*root'),
        ],
    )
    def test_missing_folders_and_data_sets_are_named(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CaptionedImages(**arguments).load_table()

    def test_a_data_set_that_was_not_downloaded_is_reported(self, tmp_path: Path) -> None:
        module = CaptionedImages(dataset='torchvision.datasets.CIFAR10', dataset_kwargs={'root': str(tmp_path)})
        with pytest.raises(ValueError, match='Dataset not found or corrupted') as error:
            module.load_table()
        assert '\n' not in str(error.value)

    def test_folders_without_images_are_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='has no folder train'):
            CaptionedImages(str(tmp_path)).load_table()
        (tmp_path / 'train').mkdir()
        with pytest.raises(ValueError, match='has no class folders'):
            CaptionedImages(str(tmp_path)).load_table()
        (tmp_path / 'train' / 'dog').mkdir()
        with pytest.raises(ValueError, match='has no image in any class folder'):
            CaptionedImages(str(tmp_path)).load_table()

    def test_a_folder_of_an_unknown_class_is_rejected(self, root: Path) -> None:
        write_picture(root / 'test' / 'boat' / '0.jpg', 0)
        with pytest.raises(ValueError, match="has a folder 'boat', which is not a class of the training images"):
            CaptionedImages(str(root)).load_heldout()

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ('dog\tdog\ncar\tcar\n', "no line for the folder 'ice_cream'"),
            ('dog\tdog\ncar\t ,x\n', 'has no name in line 2'),
            ('dog dog\n', 'do not have 2 fields .* first: line 1'),
        ],
    )
    def test_a_malformed_classes_tsv_is_rejected(self, content: str, message: str, root: Path) -> None:
        (root / 'classes.tsv').write_text(content)
        with pytest.raises(ValueError, match=message):
            CaptionedImages(str(root)).load_table()

    def test_a_wrong_number_of_class_names_is_rejected(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r'data\.class_names must name the 3 classes of the data, in order; got 2'):
            CaptionedImages(str(root), class_names=['a', 'b']).load_table()
