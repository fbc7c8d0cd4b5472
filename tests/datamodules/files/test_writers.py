from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.files.writers import WrittenPair, as_png, require_empty, write_csv, write_shards
from datamodules.usage_error import UsageError

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), np.uint8)
ROWS = (0, 7, 12, 3_000_000_000, 2)
CAPTIONS = ('a cat', 'v1.2, "quoted"', 'two\nlines', 'née 猫', ' x ')


def pairs() -> Iterator[WrittenPair]:
    """Yields pairs with NumPy rows; every other picture is already encoded, the others are arrays."""
    for number, (row, caption) in enumerate(zip(np.array(ROWS), CAPTIONS, strict=True)):
        yield row, as_png(PICTURES[number]) if number % 2 else PICTURES[number], caption


def read_pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)


class TestCsv:
    def test_holds_the_given_pairs(self, tmp_path: Path) -> None:
        assert write_csv(tmp_path / 'new', pairs()) == 5
        with (tmp_path / 'new/train.csv').open(newline='', encoding='utf-8') as file:
            lines = list(csv.DictReader(file))
        assert [int(line['']) for line in lines] == list(ROWS)
        assert tuple(line['caption'] for line in lines) == CAPTIONS
        written = [read_pixels((tmp_path / 'new' / line['image']).read_bytes()) for line in lines]
        assert np.array_equal(written, PICTURES)

    def test_the_headerless_table_holds_the_same_pairs(self, tmp_path: Path) -> None:
        write_csv(tmp_path, pairs())
        with (tmp_path / 'data.csv').open(newline='', encoding='utf-8') as file:
            assert list(csv.reader(file)) == [[f'{r}.png', c, ''] for r, c in zip(ROWS, CAPTIONS, strict=True)]

    def test_tables_have_the_given_names(self, tmp_path: Path) -> None:
        write_csv(tmp_path, pairs(), 'repaired.csv', headerless=None)
        assert sorted(path.name for path in tmp_path.iterdir()) == ['images', 'repaired.csv']

    def test_refuses_a_folder_that_has_pictures(self, tmp_path: Path) -> None:
        write_csv(tmp_path, pairs())
        with pytest.raises(UsageError, match=r'images.* already exists and is not empty: name another one'):
            write_csv(tmp_path, pairs())


class TestShards:
    def members(self, path: Path) -> dict[str, bytes]:
        with tarfile.open(path) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    def test_hold_the_given_pairs(self, tmp_path: Path) -> None:
        assert write_shards(tmp_path / 'new', pairs(), pairs_per_shard=2) == 5
        shards = sorted((tmp_path / 'new').iterdir())
        assert [shard.name for shard in shards] == ['00000.tar', '00001.tar', '00002.tar']
        members = [self.members(shard) for shard in shards]
        assert [len(shard) for shard in members] == [4, 4, 2]
        everything = {name: content for shard in members for name, content in shard.items()}
        for row, picture, caption in zip(ROWS, PICTURES, CAPTIONS, strict=True):
            assert np.array_equal(read_pixels(everything[f'{row:09d}.png']), picture)
            assert everything[f'{row:09d}.txt'].decode() == caption

    def test_keys_have_no_dot(self, tmp_path: Path) -> None:
        write_shards(tmp_path, pairs())
        names = self.members(tmp_path / '00000.tar')
        assert len(names) == 10 and all(name.count('.') == 1 for name in names)
        with pytest.raises(ValueError, match='invalid literal'):
            write_shards(tmp_path / 'other', [('1.5', PICTURES[0], 'x')])  # type: ignore[list-item]

    def test_no_pairs_give_no_shards(self, tmp_path: Path) -> None:
        assert write_shards(tmp_path / 'new', []) == 0 and list((tmp_path / 'new').iterdir()) == []

    def test_refuses_a_folder_in_use_and_empty_shards(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match='pairs_per_shard must be at least 1, got 0'):
            write_shards(tmp_path, pairs(), 0)
        (tmp_path / 'x').touch()
        with pytest.raises(UsageError, match='already exists and is not empty'):
            write_shards(tmp_path, pairs())


def test_a_file_is_not_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    for used in (tmp_path, tmp_path / 'file'):
        with pytest.raises(UsageError, match='already exists and is not empty'):
            require_empty(used)
    assert require_empty(tmp_path / 'absent') == tmp_path / 'absent'
