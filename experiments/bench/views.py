"""Speed of making two views of each picture: batched on uint8 tensors, and picture by picture in PIL as SimCLR does."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from datamodules.pictures.augment import MEAN, STD, SimCLRViews, normalize
from datamodules.pictures.cache import DecodedPictures, read_pictures, store_pictures
from datamodules.pictures.images import FolderImages
from datamodules.rows.table import PairTable
from experiments.bench.measure import Result, best_of

PAIRS, SIZE = 16, 224
REPEATS = 7


def photo(seed: int) -> Image.Image:
    """An image with about the size, detail and file size of a photo: waves of several lengths and a little noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:480, :640]
    waves = [np.sin(x / draw.uniform(5, 80) + y / draw.uniform(5, 80)) for _ in range(4)]
    pixels = 128 + sum(wave[..., None] * draw.normal(0, 60, 3) for wave in waves) + draw.normal(0, 6, (480, 640, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def photos(folder: Path, number: int) -> tuple[PairTable, list[Path]]:
    """Writes photos as JPEG files into a folder; returns them as pairs and as paths."""
    files = [folder / f'{seed}.jpg' for seed in range(number)]
    for seed, file in enumerate(files):
        photo(seed).save(file, quality=90)
    return PairTable([file.name for file in files], ['a photo'] * number, opener=FolderImages(folder)), files


def pil_views() -> transforms.Compose:
    """SimCLR's augmentation on PIL images with torchvision; it always blurs, as the released SafeCLIP code does."""
    return transforms.Compose([
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.5, 0.5, 0.5, 0.1)], 0.8),
        transforms.RandomGrayscale(0.2),
        transforms.GaussianBlur(21, (0.1, 2.0)),
        transforms.Resize(SIZE, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(SIZE),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])  # fmt: skip


def measure() -> Iterator[Result]:
    """Compares three ways of making two views of 224 pixels, in pairs per second."""
    with tempfile.TemporaryDirectory() as folder:
        table, files = photos(Path(folder), PAIRS)
        stored = store_pictures(table, SIZE, Path(folder))
        views, rows, reference = SimCLRViews(blur=1.0), np.arange(PAIRS), pil_views()

        def two_views(pictures: np.ndarray) -> list[torch.Tensor]:
            images, row = torch.from_numpy(pictures), torch.from_numpy(rows)
            return [normalize(views(images, row, SIZE, seed=0, epoch=0, view=view)) for view in (0, 1)]

        def one_by_one() -> list[torch.Tensor]:
            data = [file.read_bytes() for file in files for _ in (0, 1)]
            return [reference(Image.open(io.BytesIO(jpeg)).convert('RGB')) for jpeg in data]

        times = best_of({
            'reference': one_by_one,
            'cache': lambda: two_views(read_pictures(stored, rows)),
            'jpeg': lambda: two_views(read_pictures(DecodedPictures(table, SIZE), rows)),
        }, REPEATS)  # fmt: skip
    speed = times['reference'] / times['cache'], times['reference'] / times['jpeg']
    yield Result('two-view pairs a second from the cache, over PIL', speed[0], target=5, higher_is_better=True)
    yield Result('two-view pairs a second from JPEG, over PIL', speed[1], target=2, higher_is_better=True)
    yield Result('the same in pairs a second of one core: PIL', PAIRS / times['reference'], '/s')
    yield Result('… from JPEG', PAIRS / times['jpeg'], '/s')
    yield Result('… from the cache', PAIRS / times['cache'], '/s')
