from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.rows.filters import KeyList
from datamodules.rows.table import UNKNOWN
from datamodules.webdataset import WebDatasetPairs
from tests.helpers.picture_files import number_of, picture
from tests.helpers.published import samples, write_shard


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for shard in range(3):
        write_shard(tmp_path / 'shards' / f'{shard:05d}.tar', samples(range(3 * shard, 3 * shard + 3)))
    return tmp_path


def pairs(root: Path, shards: str | list[str] = '', **arguments: str) -> WebDatasetPairs:
    return WebDatasetPairs(shards or str(root / 'shards'), cache_dir=str(root / 'cache'), **arguments)


class TestTable:
    def test_rows_are_in_the_order_of_the_shards(self, root: Path) -> None:
        table = pairs(root).load_table()
        assert table.caption.to_pylist() == [f'caption {number}' for number in range(9)]
        assert [number_of(table.open(row)) for row in range(9)] == list(range(9))
        assert table.image[0].as_py() == f'00000.tar:000000000:512:{len(picture(0))}'
        assert table.names()[8].as_py() == '00002.tar:000000008'

    def test_the_same_pairs_in_another_order_are_the_same_table(self, root: Path) -> None:
        first = pairs(root).load_table()
        for path in (root / 'shards').iterdir():
            with tarfile.open(path) as tar:
                members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            write_shard(root / 'again' / path.name, dict(reversed(members.items())))
        second = pairs(root, str(root / 'again')).load_table()
        assert second.fingerprint == first.fingerprint and not second.image.equals(first.image)
        assert [number_of(second.open(row)) for row in range(9)] == list(range(9))

    def test_does_not_depend_on_the_folder_of_the_shards(self, root: Path) -> None:
        first = pairs(root).load_table().fingerprint
        (root / 'shards').rename(root / 'moved')
        assert pairs(root, str(root / 'moved')).load_table().fingerprint == first

    def test_lists_may_name_samples_by_key_and_uid(self, root: Path) -> None:
        first = {'x.jpg': picture(1), 'x.json': b'{"caption": "a dog", "uid": "00ff"}'}
        members = first | {'y.jpg': picture(2), 'y.txt': b'b'}
        write_shard(root / 'a.tar', members)
        table = pairs(root, str(root / 'a.tar')).load_table()
        assert table.keys['key'].to_pylist() == ['x', 'y']
        assert table.keys['uid'].to_pylist() == ['00ff', None]
        (root / 'keys.txt').write_text('y\n')
        assert KeyList(str(root / 'keys.txt')).drop(table).tolist() == [True, False]

    def test_captions_come_from_the_key_that_is_named(self, root: Path) -> None:
        assert set(pairs(root, captions_from='caption').load_table().caption.to_pylist()) == {'not this one'}

    def test_labels_come_from_metadata(self, root: Path) -> None:
        table = pairs(root, labels_from='class').load_table()
        assert table.classes == ('c0', 'c1') and table.label.tolist() == [number % 2 for number in range(9)]
        assert (pairs(root).load_table().label == UNKNOWN).all()

    def test_heldout_pairs_are_read_from_shards(self, root: Path) -> None:
        heldout = pairs(
            root, str(root / 'shards/0000{0..1}.tar'), validation=str(root / 'shards/00002.tar')
        ).load_heldout()
        assert heldout is not None and heldout.captions([0]) == ['caption 6'] and number_of(heldout.open(0)) == 6
        assert pairs(root).load_heldout() is None


class TestIndex:
    def test_is_written_once_and_then_memory_mapped(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = pairs(root).load_table()
        monkeypatch.setattr(tarfile, 'open', lambda *_: pytest.fail('a shard was read again'))
        allocated = pa.total_allocated_bytes()
        second = pairs(root).load_table()
        assert second.fingerprint == first.fingerprint and isinstance(second.caption, pa.Array)
        assert pa.total_allocated_bytes() == allocated

    def test_is_rebuilt_when_a_shard_changes(self, root: Path) -> None:
        pairs(root).load_table()
        write_shard(root / 'shards/00001.tar', samples(range(6, 8)))
        assert len(pairs(root).load_table()) == 8
        os.utime(root / 'shards/00001.tar', (0, 0))
        pairs(root).load_table()
        pairs(root, labels_from='class').load_table()
        assert len(list((root / 'cache').glob('shards-*.arrow'))) == 3  # another time alone makes no other index
