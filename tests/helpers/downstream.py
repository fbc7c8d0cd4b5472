"""Write published sets of classes as torchvision unpacks them, with a picture for each part and class."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import scipy.io

from datamodules.evaluation.downstream import PUBLISHED

Draw = Callable[[Path], None]  # writes a picture


def leave_empty(path: Path) -> None:
    """Writes no picture, where only the lists of them are read."""
    path.touch()


def write_downstream(root: Path, name: str, draw: Draw = leave_empty) -> str:
    """Writes a set and returns its root."""
    WRITERS[name](root, PUBLISHED[name].classes, draw)
    return str(root)


def _draw_all(paths: Iterable[Path], draw: Draw) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(path)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


def _cifar(root: Path, classes: int, batches: list[str], meta: dict[str, str], label: str) -> None:
    for number, name in enumerate(batches):
        draw = np.random.default_rng(number)
        rows = {'data': draw.integers(0, 256, (classes, 3072), np.uint8), label: [*range(classes)]}
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(pickle.dumps(rows))
    for name, key in meta.items():
        (root / name).write_bytes(pickle.dumps({key: [f'class_{index}' for index in range(classes)]}))


def cifar10(root: Path, classes: int, draw: Draw) -> None:
    folder = 'cifar-10-batches-py'
    names = [*(f'{folder}/data_batch_{number}' for number in range(1, 6)), f'{folder}/test_batch']
    _cifar(root, classes, names, {f'{folder}/batches.meta': 'label_names'}, 'labels')


def cifar100(root: Path, classes: int, draw: Draw) -> None:
    folder = 'cifar-100-python'
    names = [f'{folder}/train', f'{folder}/test']
    _cifar(root, classes, names, {f'{folder}/meta': 'fine_label_names'}, 'fine_labels')


def caltech101(root: Path, classes: int, draw: Draw) -> None:
    names = ['BACKGROUND_Google', *(f'class_{number}' for number in range(1, classes))]
    folder = root / 'caltech101' / '101_ObjectCategories'
    _draw_all((folder / name / f'image_{number:04d}.jpg' for name in names for number in range(1, 32)), draw)


def dtd(root: Path, classes: int, draw: Draw) -> None:
    folder = root / 'dtd' / 'dtd'
    for part in ('train', 'val', 'test'):
        names = [f'class_{index:02d}/class_{index:02d}_{part}.jpg' for index in range(classes)]
        _draw_all((folder / 'images' / name for name in names), draw)
        _write_lines(folder / 'labels' / f'{part}1.txt', names)


def aircraft(root: Path, classes: int, draw: Draw) -> None:
    folder = root / 'fgvc-aircraft-2013b' / 'data'
    _write_lines(folder / 'variants.txt', (f'7{index:02d}-200' for index in range(classes)))
    for number, part in enumerate(('trainval', 'test')):
        names = [f'{number}{index:06d}' for index in range(classes)]
        _draw_all((folder / 'images' / f'{name}.jpg' for name in names), draw)
        _write_lines(folder / f'images_variant_{part}.txt', (f'{n} 7{i:02d}-200' for i, n in enumerate(names)))


def flowers102(root: Path, classes: int, draw: Draw) -> None:
    folder = root / 'flowers-102'
    _draw_all((folder / 'jpg' / f'image_{number:05d}.jpg' for number in range(1, 3 * classes + 1)), draw)
    parts = np.arange(1, 3 * classes + 1).reshape(3, classes)
    scipy.io.savemat(folder / 'setid.mat', dict(zip(('trnid', 'valid', 'tstid'), parts, strict=True)))
    scipy.io.savemat(folder / 'imagelabels.mat', {'labels': np.tile(np.arange(1, classes + 1), 3)})


def food101(root: Path, classes: int, draw: Draw) -> None:
    folder = root / 'food-101'
    for part in ('train', 'test'):
        images = {f'class_{index:03d}': [f'class_{index:03d}/{part}'] for index in range(classes)}
        _draw_all((folder / 'images' / f'{name}.jpg' for names in images.values() for name in names), draw)
        _write_lines(folder / 'meta' / f'{part}.json', [json.dumps(images)])


def imagenet(root: Path, classes: int, draw: Draw) -> None:
    for part in ('train', 'val'):
        _draw_all((root / part / f'n{index:08d}' / f'{part}.JPEG' for index in range(classes)), draw)


def pets(root: Path, classes: int, draw: Draw) -> None:
    folder = root / 'oxford-iiit-pet'
    for number, part in enumerate(('trainval', 'test')):
        names = [f'pet_{index:02d}_{number}' for index in range(classes)]
        _draw_all((folder / 'images' / f'{name}.jpg' for name in names), draw)
        _write_lines(folder / 'annotations' / f'{part}.txt', (f'{n} {i + 1} 1 1' for i, n in enumerate(names)))


def cars(root: Path, classes: int, draw: Draw) -> None:
    folder = root / 'stanford_cars'
    kind = [('fname', object), ('class', np.uint8)]
    files = {'cars_train': 'devkit/cars_train_annos.mat', 'cars_test': 'cars_test_annos_withlabels.mat'}
    (folder / 'devkit').mkdir(parents=True)
    names = np.array([f'Maker {index} 2012' for index in range(classes)], object)
    scipy.io.savemat(folder / 'devkit' / 'cars_meta.mat', {'class_names': names})
    for images, listed in files.items():
        rows = [(f'{index:05d}.jpg', index + 1) for index in range(classes)]
        _draw_all((folder / images / name for name, _ in rows), draw)
        scipy.io.savemat(folder / listed, {'annotations': np.array(rows, kind)})


WRITERS: dict[str, Callable[[Path, int, Draw], None]] = {
    'CIFAR10': cifar10,
    'CIFAR100': cifar100,
    'Caltech101': caltech101,
    'DTD': dtd,
    'FGVCAircraft': aircraft,
    'Flowers102': flowers102,
    'Food101': food101,
    'ImageNet': imagenet,
    'OxfordIIITPet': pets,
    'StanfordCars': cars,
}
