from __future__ import annotations

import logging
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.files.shards import MAX_TEXT_BYTES
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
        assert table.image[0].as_py() == f'00000.tar:512:{len(picture(0))}'

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

    def test_captions_may_be_only_in_metadata(self, root: Path) -> None:
        write_shard(root / 'a.tar', {'x.jpg': picture(1), 'x.json': b'{"caption": "a\\ndog"}'})
        assert pairs(root, str(root / 'a.tar')).load_table().caption.to_pylist() == ['a dog']

    def test_members_of_a_sample_need_not_be_adjacent_and_may_be_in_folders(self, root: Path) -> None:
        members = samples(range(2), 'a/') | samples(range(2, 4), 'b.c/')
        write_shard(root / 'a.tar', dict(sorted(members.items(), key=lambda member: member[0][::-1])))
        table = pairs(root, str(root / 'a.tar')).load_table()
        assert all(table.caption[r].as_py() == f'caption {number_of(table.open(r))}' for r in range(4))

    def test_samples_without_picture_or_caption_are_dropped_and_counted(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = {
            'a.txt': b'no picture', 'b.jpg': picture(2), 'c.jpg': picture(3), 'c.txt': b' \n', 'd.jpg': picture(4),
            'd.json': b'{"caption": nothing}', '._0.jpg': b'of macOS', 'e.jpg': picture(5),
            'e.txt': b'x' * (MAX_TEXT_BYTES + 1),
        }  # fmt: skip
        write_shard(root / 'a.tar', broken | samples(range(1, 2)))
        with caplog.at_level(logging.WARNING):
            table = pairs(root, str(root / 'a.tar')).load_table()
        assert table.caption.to_pylist() == ['caption 1'] and number_of(table.open(0)) == 1
        assert '1 of 6 samples have no picture' in caplog.text and '4 of 5 captions are empty' in caplog.text

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
        assert len(list((root / 'cache').glob('shards-*.arrow'))) == 4


class TestDamage:
    @pytest.mark.parametrize('size', [100, 512 + 10, 512 + len(picture(3)) // 2, 512 * 4 + 100, 512 * 5 + 4])
    def test_a_truncated_shard_is_named(self, size: int, root: Path) -> None:
        shard = root / 'shards' / '00001.tar'
        shard.write_bytes(shard.read_bytes()[:size])
        with pytest.raises(ValueError, match=r'shard .*00001\.tar is damaged .*: download it again'):
            pairs(root).load_table()

    def test_a_shard_with_garbage_in_the_middle_is_named(self, root: Path) -> None:
        shard = root / 'shards' / '00001.tar'
        data = bytearray(shard.read_bytes())
        place = data.index(b'000000004.jpg')
        data[place : place + 512] = b'x' * 512
        shard.write_bytes(bytes(data))
        with pytest.raises(ValueError, match=rf'broken header at byte {place:,}'):
            pairs(root).load_table()

    def test_a_file_that_is_not_a_tar_is_named(self, root: Path) -> None:
        (root / 'a.tar').write_bytes(b'<html>not found</html>' * 100)
        with pytest.raises(ValueError, match=r'shard .*a\.tar is damaged'):
            pairs(root, str(root / 'a.tar')).load_table()

    def test_two_members_of_one_name_are_rejected(self, root: Path) -> None:
        with tarfile.open(root / 'a.tar', 'w') as tar:
            for _ in range(2):
                tar.addfile(tarfile.TarInfo('x.jpg'))
        with pytest.raises(ValueError, match=r"contains 'x\.jpg' twice"):
            pairs(root, str(root / 'a.tar')).load_table()

    def test_shards_without_pairs_are_rejected(self, root: Path) -> None:
        write_shard(root / 'a.tar', {'x.jpg': picture(0)})
        with pytest.raises(ValueError, match=r'data\.shards=.* has no usable pair'):
            pairs(root, str(root / 'a.tar')).load_table()
