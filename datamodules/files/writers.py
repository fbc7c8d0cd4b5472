"""Writes image-caption pairs in two forms that other code bases read: CSV with image files, and WebDataset shards.

Pairs come from any iterator of (row, picture, caption). A picture is uint8 (3, h, w) or already encoded as PNG:

    pairs = ((row, images[row], captions[row]) for row in kept)
    write_shards(folder / 'train', pairs)
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.usage_error import UsageError

PAIRS_PER_SHARD = 10_000  # as in img2dataset
WrittenPair = tuple[int, np.ndarray | bytes, str]  # row, picture, caption
Sample = tuple[str, Mapping[str, bytes]]  # key, and members by extension


def write_csv(
    folder: Path, pairs: Iterable[WrittenPair], table: str = 'train.csv', headerless: str | None = 'data.csv'
) -> int:
    """Writes the pictures as lossless ``images/<row>.png``, and CSV tables of pictures and captions.

    Args:
        folder: Folder to write; created if missing.
        pairs: The pairs, each with a different row.
        table: Name of a CSV with the columns row (its header is empty), ``image`` and ``caption``, which CleanCLIP and
            open_clip read.
        headerless: Name of a CSV without a header, with file name, caption and an empty field, as Huang et al. (2025)
            read it; ``None`` skips it.

    Returns:
        Number of pairs written.

    Raises:
        UsageError: If the folder already has ``images`` that are not an empty folder.
    """
    images = require_empty(folder / 'images')
    images.mkdir(parents=True, exist_ok=True)
    named = _write_images(images, pairs)
    if headerless is None:
        return write_table(folder / table, named)
    with open_csv(folder / headerless) as plain:
        return write_table(folder / table, _copy_to_headerless(plain, named))


def write_shards(folder: Path, pairs: Iterable[WrittenPair], pairs_per_shard: int = PAIRS_PER_SHARD) -> int:
    """Writes WebDataset shards ``00000.tar`` and so on, with ``<row>.png`` and ``<row>.txt`` for each pair.

    Args:
        folder: Folder to write; created if missing.
        pairs: The pairs, each with a different row.
        pairs_per_shard: Pairs in each shard except the last.

    Returns:
        Number of pairs written.

    Raises:
        UsageError: If the folder is not empty, or ``pairs_per_shard`` is not positive.
    """
    named = (
        (f'{int(row):09d}', {'png': as_png(picture), 'txt': caption.encode()}) for row, picture, caption in pairs
    )  # no dot in a key: for WebDataset, the extension starts at the first one
    return write_samples(folder, named, pairs_per_shard)


def write_samples(folder: Path, samples: Iterable[Sample], samples_per_shard: int = PAIRS_PER_SHARD) -> int:
    """Writes WebDataset shards ``00000.tar`` and so on.

    Args:
        folder: Folder to write; created if missing.
        samples: Key of each sample, without a dot, and its members by extension.
        samples_per_shard: Samples in each shard except the last.

    Returns:
        Number of samples written.

    Raises:
        UsageError: If the folder is not empty, or the number of samples in a shard is not positive.
    """
    if samples_per_shard < 1:
        raise UsageError(f'pairs_per_shard must be at least 1, got {samples_per_shard}.')
    require_empty(folder).mkdir(parents=True, exist_ok=True)
    count = 0
    for number, shard in groupby(enumerate(samples), lambda numbered: numbered[0] // samples_per_shard):
        with tarfile.open(folder / f'{number:05d}.tar', 'w') as tar:
            for _, (key, members) in shard:
                for extension, content in members.items():
                    _add_member(tar, f'{key}.{extension}', content)
                count += 1
    return count


def write_table(path: Path, named: Iterable[tuple[Any, ...]], more: Sequence[str] = ()) -> int:
    """Writes a CSV with the columns row (its header is empty), ``image`` and ``caption``, and further ones.

    Args:
        path: The file.
        named: Row, name of the picture in the folder ``images``, and caption of each pair, then its further fields;
            pairs may share a picture.
        more: Names of the further columns.

    Returns:
        Number of pairs written.
    """
    count = 0
    with open_csv(path) as lines:
        lines.writerow(['', 'image', 'caption', *more])
        for row, name, *fields in named:
            lines.writerow([row, f'images/{name}', *fields])
            count += 1
    return count


def write_token_lines(path: Path, captions: Iterable[tuple[str, str]]) -> None:
    """Writes lines ``<image>#<number><tab><caption>``, as in ``Flickr8k.token.txt``.

    Args:
        path: The file.
        captions: Name of the picture and caption of each pair; the captions of a picture are numbered.
    """
    count: Counter[str] = Counter()
    with path.open('w', newline='', encoding='utf-8') as file:
        for image, caption in captions:
            file.write(f'{image}#{count[image]}\t{caption}\n')
            count[image] += 1


def as_png(picture: np.ndarray | bytes) -> bytes:
    """Encodes a picture, uint8 (3, h, w), as PNG; bytes are returned unchanged.

    Uses the lowest compression level, which takes two thirds of the time and a tenth more space.
    """
    if isinstance(picture, bytes):
        return picture
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, 'PNG', compress_level=1)
    return file.getvalue()


@contextmanager
def open_csv(path: Path, delimiter: str = ',') -> Iterator[Any]:
    """Opens a CSV file for writing, in UTF-8 with Unix line ends, and yields its ``csv.writer``."""
    with path.open('w', newline='', encoding='utf-8') as file:
        yield csv.writer(file, delimiter=delimiter, lineterminator='\n')


def require_empty(folder: Path, argument: str = 'folder') -> Path:
    """Returns the folder, which an argument names, if it is empty or missing.

    Raises:
        UsageError: If the folder is not empty, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f'{argument}={str(folder)!r} already exists and is not empty: name another one.')
    return folder


def _write_images(folder: Path, pairs: Iterable[WrittenPair]) -> Iterator[tuple[int, str, str]]:
    """Writes the pictures and yields row, file name and caption of each pair."""
    for row, picture, caption in pairs:
        name = f'{int(row)}.png'
        (folder / name).write_bytes(as_png(picture))
        yield row, name, caption


def _copy_to_headerless(lines: Any, named: Iterable[tuple[int, str, str]]) -> Iterator[tuple[int, str, str]]:
    for row, name, caption in named:
        lines.writerow([name, caption, ''])  # the third field is for a URL
        yield row, name, caption


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
