from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from datamodules.files import arrow_cache, shard_index
from datamodules.rows.filters import KeyList
from datamodules.rows.table import UNKNOWN
from datamodules.usage_error import UsageError
from datamodules.webdataset import WebDatasetPairs
from tests.helpers.file_server import FileServer, serve
from tests.helpers.picture_files import number_of, picture
from tests.helpers.published import samples, write_shard
from tests.helpers.tiny import set_up


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

    def test_a_key_of_labels_that_no_sample_has_is_refused(self, root: Path) -> None:
        module = pairs(root, labels_from='cls', validation=str(root / 'shards/00002.tar'))
        with pytest.raises(UsageError, match=r"^data\.labels_from='cls' is not a key .* name the key of the class"):
            module.load_table()
        assert len(module.load_heldout() or ()) == 3

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

    def test_is_mapped_too_where_it_has_several_chunks(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrow_cache, 'MAX_CHUNK_BYTES', 0)  # as if it were too large for one
        first = pairs(root).load_table()
        allocated = pa.total_allocated_bytes()
        second = pairs(root).load_table()
        assert second.fingerprint == first.fingerprint and isinstance(second.caption, pa.ChunkedArray)
        assert pa.total_allocated_bytes() == allocated

    def test_is_rebuilt_when_a_shard_changes(self, root: Path) -> None:
        pairs(root).load_table()
        write_shard(root / 'shards/00001.tar', samples(range(6, 8)))
        assert len(pairs(root).load_table()) == 8
        os.utime(root / 'shards/00001.tar', (0, 0))
        pairs(root).load_table()
        pairs(root, labels_from='class').load_table()
        assert len(list((root / 'cache').glob('shards-*.arrow'))) == 3  # another time alone makes no other index


@pytest.fixture
def server(root: Path) -> Iterator[FileServer]:
    """Serves five shards of three pairs, the last of which repeats the third."""
    contents = [path.read_bytes() for path in sorted((root / 'shards').iterdir())]
    with serve({f'{number:05d}.tar': contents[min(number, 2)] for number in range(5)}) as server:
        yield server


def remote(root: Path, server: FileServer, last: int = 4, **arguments: Any) -> WebDatasetPairs:
    shards = f'{server.address}/{{00000..0000{last}}}.tar'
    return WebDatasetPairs(shards, cache_dir=str(root / 'remote'), class_names=['cat'], batch_size=8, **arguments)


class TestRemote:
    def test_pairs_are_those_of_local_shards(self, root: Path, server: FileServer) -> None:
        local, copied = pairs(root).load_table(), remote(root, server, last=2).load_table()
        assert copied.fingerprint == local.fingerprint and copied.image.equals(local.image)
        assert [number_of(copied.open(row)) for row in range(9)] == list(range(9))

    @pytest.mark.parametrize('workers', [0, 2])
    def test_pictures_are_stored_within_the_limit(self, workers: int, root: Path, server: FileServer) -> None:
        limit = 3 * max(map(len, server.files.values()))
        data = set_up(remote(root, server, cache_limit=limit, num_workers=workers))
        stored = data.pictures('train', np.arange(15)).reshape(15, -1).mean(1) / 20
        assert stored.round().astype(int).tolist() == [*range(9), 6, 7, 8, 6, 7, 8]
        copies = [path for path in (root / 'remote').rglob('*') if path.suffix in ('.tar', '.part')]
        assert 0 < sum(path.stat().st_size for path in copies) <= limit

    def test_stored_pictures_need_no_copies(self, root: Path, server: FileServer) -> None:
        limit = 3 * max(map(len, server.files.values()))
        set_up(remote(root, server, cache_limit=limit))
        for path in (root / 'remote').rglob('*.tar'):
            path.unlink()
        server.requests.clear()
        assert len(set_up(remote(root, server, cache_limit=limit)).table) == 15
        assert set(server.requests) == {'HEAD'} and not list((root / 'remote').rglob('*.tar'))

    def test_without_stored_pictures_a_limit_is_refused(self, root: Path, server: FileServer) -> None:
        limit = 3 * max(map(len, server.files.values()))
        with pytest.raises(UsageError, match=r'over data\.cache_limit=.* with data\.cache=none'):
            set_up(remote(root, server, cache_limit=limit, cache='none'))

    def test_a_shard_that_changed_on_the_server_ends_the_run(self, root: Path, server: FileServer) -> None:
        set_up(remote(root, server))
        server.files['00001.tar'] = server.files['00002.tar']
        with pytest.raises(UsageError, match=r"/00001\.tar' has changed on its server"):
            set_up(remote(root, server))

    def test_fewer_shards_than_processes_are_enough(
        self, root: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_shard(root / 'one.tar', samples(range(8)))
        server.files['00000.tar'] = (root / 'one.tar').read_bytes()
        rows = []
        monkeypatch.setattr(WebDatasetPairs, '_world', 4)
        for rank in range(4):
            monkeypatch.setattr(WebDatasetPairs, '_rank', rank)
            rows += [batch.row for batch in set_up(remote(root, server, last=0)).sweep_dataloader()]
        assert np.concatenate(rows).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]

    def test_the_index_lies_beside_the_shards_for_other_machines(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = fsspec.filesystem('memory')
        for path in (root / 'shards').iterdir():
            store.pipe(f'/indexed/{path.name}', path.read_bytes())
        address = 'memory://indexed/{00000..00002}.tar'
        first = pairs(root, address).load_table()
        assert len(store.glob('/indexed/shards-*.arrow')) == 1
        monkeypatch.setattr(shard_index, '_build_index', lambda *_: pytest.fail('was indexed again'))
        second = WebDatasetPairs(address, cache_dir=str(root / 'another')).load_table()
        assert second.fingerprint == first.fingerprint and second.image.equals(first.image)

    def test_an_index_that_names_other_files_is_not_used(self, root: Path) -> None:
        store = fsspec.filesystem('memory')
        store.pipe('/forged/00000.tar', (root / 'shards/00000.tar').read_bytes())
        pairs(root, 'memory://forged/00000.tar').load_table()
        (index,) = store.glob('/forged/shards-*.arrow')
        with pa.ipc.open_file(store.cat(index)) as stream:
            table = stream.read_all()
        forged = table.set_column(0, 'image', pa.array(['../../private.tar:0:0:9'] * 3))
        with store.open(index, 'wb') as file, pa.ipc.new_file(file, forged.schema) as stream:
            stream.write_table(forged)
        again = WebDatasetPairs('memory://forged/00000.tar', cache_dir=str(root / 'another')).load_table()
        assert number_of(again.open(2)) == 2

    @pytest.mark.parametrize('argument', ['shards', 'validation'])
    def test_secrets_are_refused_before_anything_is_saved(self, argument: str) -> None:
        given = {'shards': '0.tar', argument: 'https://a.org/0.tar?sig=word'}
        with pytest.raises(UsageError, match=rf'^data\.{argument}: the password or query .* \$NAME') as refused:
            WebDatasetPairs(**given)
        assert 'sig' not in str(refused.value)
