from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from datamodules.evaluation.downstream import PUBLISHED, DownstreamSet, Name
from datamodules.usage_error import UsageError
from tests.helpers.downstream import WRITERS, write_downstream
from tests.helpers.tiny import TinyPairs, set_up

TRAIN_PER_CLASS = {'CIFAR10': 5, 'Caltech101': 30, 'DTD': 2, 'Flowers102': 2}
SECOND_CLASS = {
    'CIFAR10': 'class 1', 'CIFAR100': 'class 1', 'Caltech101': 'class 1', 'DTD': 'class 01',
    'FGVCAircraft': '701-200', 'Flowers102': 'hard-leaved pocket orchid', 'Food101': 'class 001',
    'ImageNet': 'goldfish', 'OxfordIIITPet': 'Pet 01', 'StanfordCars': 'Maker 1 2012',
}  # fmt: skip
MEAN_PER_CLASS = {'Caltech101', 'FGVCAircraft', 'Flowers102', 'OxfordIIITPet'}


@pytest.fixture(autouse=True)
def accept_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares checksums of published files, which these are not."""
    for module in ('cifar', 'flowers102'):
        monkeypatch.setattr(f'torchvision.datasets.{module}.check_integrity', lambda path, _: Path(path).exists())


@pytest.mark.parametrize('name', get_args(Name))
def test_a_set_is_read_as_published(name: Name, tmp_path: Path) -> None:
    given = DownstreamSet(name, write_downstream(tmp_path, name))
    test, read_train = given.read('data.labeled.x')
    assert read_train is not None
    train, classes = read_train(), PUBLISHED[name].classes
    assert test.classes[1] == SECOND_CLASS[name] and len(test.classes) == classes
    assert np.bincount(test.label).tolist() == [1] * classes
    assert np.bincount(train.label).tolist() == [TRAIN_PER_CLASS.get(name, 1)] * classes
    assert given.metric == ('mean_per_class' if name in MEAN_PER_CLASS else 'accuracy')
    if not name.startswith('CIFAR'):  # whose pictures are numbered in each part anew
        paths = [{table.opener.root / image for image in table.image.to_pylist()} for table in (test, train)]
        assert not paths[0] & paths[1] and all(path.is_file() for path in paths[0] | paths[1])


def test_the_ten_sets_are_those_of_the_paper() -> None:
    assert {*get_args(Name)} == PUBLISHED.keys() == WRITERS.keys() and len(PUBLISHED) == 10
    assert sum(each.classes for each in PUBLISHED.values()) == 10 + 100 + 101 + 47 + 100 + 102 + 102 + 37 + 196 + 1000


def test_pictures_are_decoded_upright_and_cifar_in_the_order_of_its_channels(tmp_path: Path) -> None:
    test, _ = DownstreamSet('CIFAR100', write_downstream(tmp_path, 'CIFAR100')).read('x')
    red = np.random.default_rng(1).integers(0, 256, (100, 3072), np.uint8)[0, :1024].reshape(32, 32)
    assert np.array_equal(np.asarray(test.open(0))[:, :, 0], red)


def test_no_test_picture_of_flowers_is_one_to_train_on(tmp_path: Path) -> None:
    """The released code trains on the very pictures that it tests on."""
    draw = np.random.default_rng(0)

    def noise(path: Path) -> None:
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(path)

    flowers = DownstreamSet('Flowers102', write_downstream(tmp_path, 'Flowers102', noise))
    data = set_up(TinyPairs(labeled={'flowers': flowers}, cache_dir=str(tmp_path / 'cache')))
    test = next(each for each in data.evaluation_sets if each.name == 'flowers')
    assert test.train is not None
    train = test.train()
    assert (len(test), len(train), test.metric) == (102, 204, 'mean_per_class')
    assert not {*train.hashes} & {*test.hashes}


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def cut(path: str) -> Callable[[Path], None]:
    """Removes the last line of a file."""
    return lambda root: (root / path).write_text('\n'.join((root / path).read_text().splitlines()[:-1]) + '\n')


@pytest.mark.parametrize(
    ('name', 'damage', 'message'),
    [
        (
            'OxfordIIITPet',
            remove('oxford-iiit-pet'),
            r"root='.*' does not hold OxfordIIITPet \(Dataset not found\): u",
        ),
        ('Food101', remove('food-101/meta/train.json'), r'does not hold Food101 \(.*train\.json'),
        ('DTD', cut('dtd/dtd/labels/val1.txt'), r'has 46 classes of DTD, not 47: complete it, or give'),
        ('Caltech101', remove('caltech101/101_ObjectCategories/class_5'), 'has 101 classes of Caltech101, not 102'),
        ('StanfordCars', lambda root: (root / 'stanford_cars/devkit/cars_meta.mat').write_text('x'), 'not hold Stanf'),
    ],
)
def test_a_set_that_is_not_complete_is_refused(
    name: Name, damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    root = write_downstream(tmp_path, name)
    damage(tmp_path)
    with pytest.raises(UsageError, match=message):
        DownstreamSet(name, root).read('data.labeled.x')


def test_folders_of_other_classes_are_not_taken_for_imagenet(tmp_path: Path) -> None:
    for part in ('train/n1', 'train/n2', 'val/n1', 'val/n2'):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / '0.JPEG').touch()
    with pytest.raises(
        UsageError, match='has 2 classes of ImageNet, not 1000: complete it, or give folders of your own'
    ):
        DownstreamSet('ImageNet', str(tmp_path)).read('data.labeled.x')
