from __future__ import annotations

import errno
import logging
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pytest

from datamodules.files import remote_files, remote_shards
from datamodules.files.remote_shards import CopyRules, RemoteShards, check_copies, open_shards
from datamodules.files.shards import ShardFolder
from datamodules.usage_error import UsageError
from tests.helpers.file_server import FileServer, serve

SHARDS = 6
SIZE = 3000
CONTENT = {f'x/{number}.tar': bytes([number]) * SIZE for number in range(SHARDS)}


@pytest.fixture(autouse=True)
def in_small_blocks_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, 'BLOCK_BYTES', 1000)
    monkeypatch.setattr(remote_files, 'BLOCKS_AT_ONCE', 1)
    monkeypatch.setattr(remote_files, 'DELAYS', (0.01,))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve(CONTENT) as server:
        yield server


def pattern(server: FileServer, last: int = SHARDS - 1) -> str:
    return f'{server.address}/x/{{0..{last}}}.tar'


def open_remote(patterns: str | list[str], folder: Path, limit: int | None = None) -> RemoteShards:
    shards = open_shards(patterns, 'data.shards', CopyRules(folder, limit))
    assert isinstance(shards, RemoteShards)
    return shards


def read(shards: ShardFolder, name: str) -> bytes:
    with shards.open(name) as file:
        return file.read()


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob('*.tar'))


def wait_for_copies_ahead() -> None:
    for thread in threading.enumerate():
        if '_copy_ahead' in thread.name:
            thread.join(60)


class TestCopies:
    def test_are_made_once_and_read_as_local_files(self, server: FileServer, tmp_path: Path) -> None:
        shards = open_remote(pattern(server), tmp_path)
        assert shards.names == [f'{number}.tar' for number in range(SHARDS)]
        assert copies(tmp_path) == shards.names
        server.requests.clear()
        server.status = 500
        again = open_remote(pattern(server), tmp_path)
        assert [read(again, name) for name in again.names] == list(CONTENT.values())
        assert not server.requests

    def test_are_in_natural_order_and_each_counts_once(self, tmp_path: Path) -> None:
        for name in ('a/10', 'a/9', 'b/1'):
            fsspec.filesystem('memory').pipe(f'/order/{name}.tar', b'x')
        shards = open_remote(
            ['memory://order/b/1.tar', 'memory://order/a/{9..10}.tar', 'memory://order/a/9.tar'], tmp_path
        )
        assert shards.names == ['a/9.tar', 'a/10.tar', 'b/1.tar']
        assert shards.root == tmp_path / 'remote/memory/order'

    def test_of_one_file_are_shared_by_data_sets(self, server: FileServer, tmp_path: Path) -> None:
        open_remote(pattern(server, 1), tmp_path)
        server.requests.clear()
        open_remote(pattern(server, 2), tmp_path)
        assert server.requests['GET'] == 4  # three blocks, and whether there are ranges

    def test_go_on_where_a_killed_process_ended(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.breaks = 1000
        with pytest.raises(
            UsageError, match=r"^data\.shards: 'http.*/x/0\.tar' cannot be read .* what came is kept\.$"
        ):
            open_remote(pattern(server), tmp_path)
        server.breaks = 0
        part = tmp_path / f'remote/http/127.0.0.1:{server.server_port}/x/0.tar.part'
        part.write_bytes(CONTENT['x/0.tar'][:2000])
        room_for_the_rest = SimpleNamespace(free=len(CONTENT['x/0.tar']) - 2000)
        monkeypatch.setattr('shutil.disk_usage', lambda _: room_for_the_rest)
        server.requests.clear()
        open_remote(f'{server.address}/x/0.tar', tmp_path)
        assert server.requests['GET'] == 2 and copies(tmp_path) == ['0.tar'] and not part.exists()

    def test_are_made_by_one_of_two_processes(self, server: FileServer, tmp_path: Path) -> None:
        """Threads stand for processes: each opens the lock for itself."""
        with ThreadPoolExecutor(2) as processes:
            both = list(processes.map(lambda _: open_remote(pattern(server), tmp_path), range(2)))
        assert server.requests['GET'] == 4 * SHARDS
        assert [read(shards, '5.tar') for shards in both] == [CONTENT['x/5.tar']] * 2

    def test_have_an_identity_without_being_there(self, server: FileServer, tmp_path: Path) -> None:
        identities = []
        for cache in ('a', 'b', 'c'):
            shards = open_remote(pattern(server), tmp_path / cache, limit=3 * SIZE)
            identities.append(shards.identity(pa.array(['0.tar', '5.tar', '0.tar'])))
            server.files['x/5.tar'] = CONTENT['x/5.tar'] if cache == 'a' else bytes(SIZE)
            assert not copies(tmp_path / cache)
        assert identities[0] == identities[1] != identities[2]

    def test_can_be_pickled(self, server: FileServer, tmp_path: Path) -> None:
        shards = pickle.loads(pickle.dumps(open_remote(pattern(server), tmp_path, limit=3 * SIZE)))
        assert read(shards, '4.tar') == CONTENT['x/4.tar']

    def test_without_addresses_shards_are_local(self, tmp_path: Path) -> None:
        (tmp_path / '0.tar').write_bytes(b'x')
        shards = open_shards(str(tmp_path), 'data.shards', CopyRules(tmp_path / 'cache'))
        assert not shards.is_remote and read(shards, '0.tar') == b'x' and not (tmp_path / 'cache').exists()


class TestLimit:
    @pytest.mark.parametrize('passes', [1, 2])
    def test_holds_in_a_pass_that_copies_ahead(self, passes: int, server: FileServer, tmp_path: Path) -> None:
        shards = open_remote(pattern(server), tmp_path, limit=3 * SIZE)
        for _ in range(passes):
            for number, name in enumerate(shards.names):
                assert read(shards, name) == CONTENT[f'x/{name}'] and read(shards, name)
                wait_for_copies_ahead()
                assert {name, *shards.names[number + 1 : number + 2]} <= {*copies(tmp_path)}
                assert len(copies(tmp_path)) <= 3
        assert server.requests['GET'] == 4 * SHARDS * passes

    def test_is_no_limit_to_reading_at_random(self, server: FileServer, tmp_path: Path) -> None:
        shards = open_remote(pattern(server), tmp_path, limit=3 * SIZE)
        for number in (5, 1, 3, 1, 0, 4):
            assert read(shards, f'{number}.tar') == CONTENT[f'x/{number}.tar']
        wait_for_copies_ahead()
        assert len(copies(tmp_path)) == 3

    def test_removes_what_was_not_used_for_the_longest_time(self, server: FileServer, tmp_path: Path) -> None:
        open_remote(pattern(server, 1), tmp_path)
        for number, path in enumerate(sorted(tmp_path.rglob('*.tar'))):
            os.utime(path, (number, number))
        shards = open_remote(f'{server.address}/x/{{0..3}}.tar', tmp_path, limit=3 * SIZE)
        for name in ('0.tar', '3.tar', '2.tar'):
            read(shards, name)
        wait_for_copies_ahead()
        assert copies(tmp_path) == ['0.tar', '2.tar', '3.tar']

    def test_counts_copies_that_were_broken_off(self, server: FileServer, tmp_path: Path) -> None:
        shards = open_remote(pattern(server), tmp_path, limit=3 * SIZE)
        part = tmp_path / 'remote/other/0.tar.part'
        part.parent.mkdir()
        part.write_bytes(bytes(3 * SIZE))
        read(shards, '5.tar')
        assert not part.exists()

    def test_a_copy_that_another_process_removed_is_made_again(self, server: FileServer, tmp_path: Path) -> None:
        shards = open_remote(pattern(server), tmp_path)
        (shards.root / '2.tar').unlink()
        assert read(shards, '2.tar') == CONTENT['x/2.tar']

    def test_above_all_shards_copies_them_at_once(self, server: FileServer, tmp_path: Path) -> None:
        shards = open_remote(pattern(server), tmp_path, limit=SHARDS * SIZE)
        assert not shards.is_rolling and len(copies(tmp_path)) == SHARDS

    def test_below_three_shards_is_refused(self, server: FileServer, tmp_path: Path) -> None:
        message = r'^data\.cache_limit=9 kB has no room for 3 shards, .* of data\.shards has 3 kB: set at least 9000\.$'
        with pytest.raises(UsageError, match=message):
            open_remote(pattern(server), tmp_path, limit=3 * SIZE - 1)

    def test_needs_reading_in_order(self, server: FileServer, tmp_path: Path) -> None:
        message = (
            r'^data\.shards names 18 kB of shards, over data\.cache_limit=9 kB, and with data\.cache=none .* at random'
        )
        with pytest.raises(UsageError, match=message):
            open_shards(pattern(server), 'data.shards', CopyRules(tmp_path, 3 * SIZE, at_random=True))

    def test_failures_of_a_copy_ahead_are_those_of_the_shard(self, server: FileServer, tmp_path: Path) -> None:
        shards = open_remote(pattern(server), tmp_path, limit=3 * SIZE)
        del server.files['x/1.tar']
        read(shards, '0.tar')
        wait_for_copies_ahead()
        with pytest.raises(UsageError, match=r"/x/1\.tar' does not exist: check its name"):
            read(shards, '1.tar')


class TestChanges:
    MESSAGE = (
        r"^data\.shards: 'http.*/x/1\.tar' has changed on its server \(3,000 bytes then, 2,000 now\): delete '.*1\.tar'"
    )

    def test_are_found_at_the_next_start(self, server: FileServer, tmp_path: Path) -> None:
        open_remote(pattern(server), tmp_path)
        check_copies(pattern(server), 'data.shards', tmp_path)
        server.files['x/1.tar'] = bytes(2000)
        with pytest.raises(UsageError, match=self.MESSAGE):
            check_copies([pattern(server)], 'data.shards', tmp_path)
        for path in (tmp_path / 'remote').rglob('1.tar*'):  # what the message says
            path.unlink()
        check_copies(pattern(server), 'data.shards', tmp_path)
        assert read(open_remote(pattern(server), tmp_path), '1.tar') == bytes(2000)

    def test_before_a_copy_is_continued_are_found(self, server: FileServer, tmp_path: Path) -> None:
        shards = open_remote(pattern(server), tmp_path, limit=3 * SIZE)
        server.files['x/1.tar'] = bytes(2000)
        with pytest.raises(UsageError, match=self.MESSAGE):
            read(shards, '1.tar')
        assert server.requests['GET'] == 0

    @pytest.mark.parametrize('size', [2000, 4000])
    def test_while_it_is_copied_are_found(
        self, size: int, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shards, copy_file = open_remote(pattern(server), tmp_path, limit=3 * SIZE), remote_files.copy_file

        def change(address: str, *arguments: object) -> None:
            server.files['x/1.tar'] = bytes(size)
            copy_file(address, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(remote_shards, 'copy_file', change)
        with pytest.raises(UsageError, match=f'has changed on its server .3,000 bytes then, {size:,} now'):
            read(shards, '1.tar')
        assert not list(tmp_path.rglob('*.part'))

    def test_are_not_looked_for_where_no_server_answers(
        self, server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shards = open_remote(pattern(server), tmp_path)
        server.status = 500
        with caplog.at_level(logging.WARNING):
            check_copies(pattern(server), 'data.shards', tmp_path)
        assert 'data.shards: its server cannot be asked whether shards have changed; one cannot be read' in caplog.text
        assert read(shards, '1.tar') == CONTENT['x/1.tar']

    def test_of_local_shards_are_not_looked_for(self, tmp_path: Path) -> None:
        for patterns in (None, 'nowhere.tar', ['nowhere']):
            check_copies(patterns, 'data.shards', tmp_path)


class TestBadInput:
    @pytest.mark.parametrize(
        ('patterns', 'message'),
        [
            ('https://a.org/{0..9}.tgz', r"'https://a\.org/0\.tgz' is not the address of a \.tar file: name each"),
            (
                's3://a/cc3m-*.tar',
                r"'s3://a/cc3m-\*\.tar' is not the address of a \.tar file: name each of them, or a ra",
            ),
            ('s3://a/shards/', r"'s3://a/shards/' is not the address of a \.tar file"),
            (['memory://a/0.tar', 'b.tar'], r"names addresses and the local 'b\.tar': name shards of one kind\."),
            ('memory://a/{9..0}.tar', r"^data\.shards='memory://a/\{9\.\.0\}\.tar' names no \.tar file: write the sm"),
            ('memory://a/{0..99999999}.tar', 'names over 1,000,000 shards'),
            ('https://me:word@a.org/0.tar', 'would be saved with the configuration'),
            (
                'memory://nowhere/0.tar',
                r"^data\.shards: 'memory://nowhere/0\.tar' does not exist: check its name",
            ),
        ],
    )
    def test_is_one_sentence(self, patterns: str | list[str], message: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=message) as refused:
            open_remote(patterns, tmp_path)
        assert 'data.shards' in str(refused.value) and 'word@' not in str(refused.value)

    def test_a_disk_that_is_too_small_is_found_before_anything_is_copied(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(folder: Path, size: int, path: Path, remedy: str) -> None:
            raise UsageError(f'{size} {remedy}')

        monkeypatch.setattr(remote_shards, 'check_space', refuse)
        with pytest.raises(UsageError, match=r'^18000 set data\.cache_limit, or data\.cache_dir to another disk$'):
            open_remote(pattern(server), tmp_path)
        assert not server.requests['GET']

    def test_a_disk_that_is_full_is_no_fault_of_the_server(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        server.ranges = False
        monkeypatch.setattr(remote_files, '_copy_whole', fail)
        with pytest.raises(UsageError, match=r'^no space is left on the disk of .*0\.tar.* set data\.cache_dir'):
            open_remote(pattern(server), tmp_path / 'a')
        monkeypatch.setattr(Path, 'write_text', fail)
        with pytest.raises(UsageError, match=r'\.tar\.json cannot be written \(No space .* set data\.cache_dir'):
            open_remote(pattern(server), tmp_path / 'b')

    def test_a_cache_that_may_only_be_read_is_read(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        open_remote(pattern(server), tmp_path)
        monkeypatch.setattr(os, 'utime', refuse)
        assert read(open_remote(pattern(server), tmp_path), '1.tar') == CONTENT['x/1.tar']

    def test_a_damaged_state_is_looked_up_again(self, server: FileServer, tmp_path: Path) -> None:
        open_remote(pattern(server), tmp_path)
        for path in tmp_path.rglob('*.json'):
            path.write_text('{"size": 1')
        assert open_remote(pattern(server), tmp_path).size == SHARDS * SIZE
