"""A few numbered pairs in the forms in which data sets are published or lie after a download."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.datamodules.pictures import picture, write_picture

Caption = Callable[[int], str]
numbered: Caption = 'caption {}'.format


def write_list(path: Path, lines: Iterable[str]) -> str:
    """A text file of lines, such as CC3M's list, and its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')
    return str(path)


def write_part(folder: Path, numbers: Sequence[int], metadata: bool, caption: Caption = numbered) -> None:
    """One folder of img2dataset's files, captions in its table of metadata or beside each image."""
    for number in numbers:
        write_picture(folder / f'{number:09d}.jpg', number)
        if not metadata:
            (folder / f'{number:09d}.txt').write_text(caption(number))
    if metadata:
        keys, captions = zip(*[(f'{number:09d}', caption(number)) for number in reversed(numbers)], strict=True)
        table = pa.table({'url': ['u'] * len(numbers), 'caption': captions, 'key': keys})
        pq.write_table(table, folder.with_name(f'{folder.name}.parquet'))


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    """A tar file of members in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def samples(numbers: Iterable[int], folder: str = '', caption: Caption = numbered) -> dict[str, bytes]:
    """What img2dataset puts into a shard: a picture, its caption and metadata under each key."""
    members: dict[str, bytes] = {}
    for number in numbers:
        key = f'{folder}{number:09d}'
        members |= {f'{key}.jpg': picture(number), f'{key}.txt': caption(number).encode()}
        members |= {f'{key}.json': json.dumps({'caption': 'not this one', 'class': f'c{number % 2}'}).encode()}
    return members
