"""Seconds of storing all pictures from a distant server, whose shards are copied ahead, over those from local files."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from datamodules.pictures.cache import store_pictures
from datamodules.pictures.identity import identify_pictures
from datamodules.webdataset import WebDatasetPairs
from experiments.bench import slow_server
from experiments.bench.measure import Result
from experiments.bench.views import photo

SHARDS, PAIRS, PHOTOS = 8, 250, 25  # pairs in a shard, and how many of its photos differ
SIZE = 224
LATENCY, RATE = 0.02, 50e6  # seconds, and bytes in a second
REPEATS = 3
TARGET = 1.05


class Pass(NamedTuple):
    """What the pass over all shards took that decodes and stores their pictures.

    Attributes:
        first: Seconds until the first picture was there, and so its shard.
        rest: Seconds from then on.
    """

    first: float
    rest: float


def measure() -> Iterator[Result]:
    """Stores the pictures of all shards by turns from local files and from the server, in elapsed time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        largest = write_shards(folder / 'shards')
        with serving(folder / 'shards') as address:
            local, remote = (shards(place, folder, 3 * largest) for place in (str(folder / 'shards'), address))
            passes = [(store(local, folder), store_anew(remote, folder)) for _ in range(REPEATS)]
    local_rest, remote_rest = (min(each.rest for each in by_place) for by_place in zip(*passes, strict=True))
    what = f'{SHARDS * PAIRS:,} photos of {SHARDS} shards of {largest / 1e6:.0f} MB'
    distant = f'a server with {1000 * LATENCY:g} ms and {RATE / 1e6:g} MB/s, three copies at most'
    yield Result(f'{what}, stored from local files', local_rest, 's')
    yield Result(f'… from {distant}: until the first shard is there', min(pair[1].first for pair in passes), 's')
    yield Result('… from then on, over local files', remote_rest / local_rest, target=TARGET)


def write_shards(folder: Path) -> int:
    """Writes the shards and returns the bytes of the largest."""
    folder.mkdir()
    photos = [as_jpeg(seed) for seed in range(PHOTOS)]
    for number in range(SHARDS):
        with tarfile.open(folder / f'{number}.tar', 'w') as tar:
            for key in range(PAIRS):
                for ending, content in (('jpg', photos[key % PHOTOS]), ('txt', b'a photo')):
                    member = tarfile.TarInfo(f'{key}.{ending}')
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return max(path.stat().st_size for path in folder.iterdir())


def as_jpeg(seed: int) -> bytes:
    """The content of the file of a photo."""
    file = io.BytesIO()
    photo(seed).save(file, 'JPEG', quality=90)
    return file.getvalue()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Runs the slow server in another process, and yields the addresses of its shards."""
    command = [sys.executable, slow_server.__file__, str(folder), str(LATENCY), str(RATE)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f'http://127.0.0.1:{server.stdout.readline().strip()}/{{0..{SHARDS - 1}}}.tar'
    finally:
        server.kill()
        server.communicate()


def shards(place: str, folder: Path, limit: int) -> WebDatasetPairs:
    """The pairs of a folder or an address, indexed."""
    pairs = WebDatasetPairs(place, cache_limit=limit, cache_dir=str(folder / 'cache'))
    pairs.load_table()
    return pairs


def store_anew(pairs: WebDatasetPairs, folder: Path) -> Pass:
    """Stores all pictures after the copies of their shards were deleted."""
    for copy in (folder / 'cache').rglob('*.tar'):
        copy.unlink()
    return store(pairs, folder)


def store(pairs: WebDatasetPairs, folder: Path) -> Pass:
    """Decodes and stores all pictures, as is done once before training."""
    table = pairs.load_table()
    identify_pictures(table)  # of local files, reads all of them
    began = time.perf_counter()
    table.open(0)
    first = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as pictures:
        store_pictures(table, SIZE, Path(pictures))
        return Pass(first - began, time.perf_counter() - first)
