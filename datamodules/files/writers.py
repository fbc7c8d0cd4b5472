"""Writes image-caption pairs in the two forms that other code bases read: CSV with image files, and WebDataset shards.

Pairs come from any iterator of (row, picture, caption); a picture is uint8 (3, h, w) or already encoded as PNG:

    pairs = ((row, images[row], captions[row]) for row in kept)
    write_shards(folder / 'train', pairs)
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.usage_error import UsageError

PAIRS_PER_SHARD = 10_000  # as in img2dataset
WrittenPair = tuple[int, np.ndarray | bytes, str]  # row, picture, caption


def write_csv(
    folder: Path, pairs: Iterable[WrittenPair], table: str = 'train.csv', headerless: str | None = 'data.csv'
) -> int:
    """Writes ``images/<row>.png`` for each pair and the tables that name them; pictures lose nothing.

    Args:
        folder: Where to write; created if missing.
        pairs: The pairs, each with a row number of its own.
        table: Name of a CSV with the columns row (without a name), ``image`` and ``caption``, which CleanCLIP and
            open_clip read.
        headerless: Name of a CSV of file name, caption and an empty field, as Huang et al. (2025) read it; ``None``
            writes none.

    Returns:
        Number of pairs.

    Raises:
        UsageError: If ``images`` exists there already and is not empty.
    """
    images = require_empty(folder / 'images')
    images.mkdir(parents=True, exist_ok=True)
    named = _write_images(images, pairs)
    if headerless is None:
        return _write_table(folder / table, named)
    with open_csv(folder / headerless) as plain:
        return _write_table(folder / table, _copy_to_headerless(plain, named))


def write_shards(folder: Path, pairs: Iterable[WrittenPair], pairs_per_shard: int = PAIRS_PER_SHARD) -> int:
    """Writes WebDataset shards ``00000.tar`` and so on, with ``<row>.png`` and ``<row>.txt`` for each pair.

    Args:
        folder: Where to write; created if missing.
        pairs: The pairs, each with a row number of its own.
        pairs_per_shard: Pairs in each shard but the last.

    Returns:
        Number of pairs.

    Raises:
        UsageError: If the folder is not empty, or ``pairs_per_shard`` is not positive.
    """
    if pairs_per_shard < 1:
        raise UsageError(f'pairs_per_shard must be at least 1, got {pairs_per_shard}.')
    require_empty(folder).mkdir(parents=True, exist_ok=True)
    count = 0
    for number, shard in groupby(enumerate(pairs), lambda numbered: numbered[0] // pairs_per_shard):
        with tarfile.open(folder / f'{number:05d}.tar', 'w') as tar:
            for _, (row, picture, caption) in shard:
                key = f'{int(row):09d}'  # without a dot: WebDataset takes what follows the first one for the extension
                _add_member(tar, f'{key}.png', as_png(picture))
                _add_member(tar, f'{key}.txt', caption.encode())
                count += 1
    return count


def as_png(picture: np.ndarray | bytes) -> bytes:
    """Encodes a picture, uint8 (3, h, w), as PNG; bytes stay as they are.

    At the lowest compression level: two thirds of the time for a tenth more space.
    """
    if isinstance(picture, bytes):
        return picture
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, 'PNG', compress_level=1)
    return file.getvalue()


@contextmanager
def open_csv(path: Path) -> Iterator[Any]:
    """Opens a CSV file for writing, UTF-8 with Unix line ends, and gives its ``csv.writer``."""
    with path.open('w', newline='', encoding='utf-8') as file:
        yield csv.writer(file, lineterminator='\n')


def require_empty(folder: Path) -> Path:
    """Returns the folder if it is empty or missing.

    Raises:
        UsageError: If something is in it, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f'folder={str(folder)!r} already exists and is not empty: name another one.')
    return folder


def _write_images(folder: Path, pairs: Iterable[WrittenPair]) -> Iterator[tuple[int, str, str]]:
    """Writes the pictures and passes on row, file name and caption of each pair."""
    for row, picture, caption in pairs:
        name = f'{int(row)}.png'
        (folder / name).write_bytes(as_png(picture))
        yield row, name, caption


def _write_table(path: Path, named: Iterable[tuple[int, str, str]]) -> int:
    count = 0
    with open_csv(path) as lines:
        lines.writerow(['', 'image', 'caption'])
        for row, name, caption in named:
            lines.writerow([row, f'images/{name}', caption])
            count += 1
    return count


def _copy_to_headerless(lines: Any, named: Iterable[tuple[int, str, str]]) -> Iterator[tuple[int, str, str]]:
    for row, name, caption in named:
        lines.writerow([name, caption, ''])  # the third field is a URL
        yield row, name, caption


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
