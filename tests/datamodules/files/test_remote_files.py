from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import numpy as np
import pytest

from datamodules.files import remote_files
from datamodules.files.remote_files import FileState, RemoteFault, copy_file, look_up
from tests.helpers.file_server import FileServer, serve

CONTENT = np.random.default_rng(0).bytes(20_500)


@pytest.fixture(autouse=True)
def in_small_blocks_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, 'BLOCK_BYTES', 1000)
    monkeypatch.setattr(remote_files, 'DELAYS', (0.01,) * 4)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve({'x/0.tar': CONTENT}) as server:
        yield server


def address_of(server: FileServer) -> str:
    return f'{server.address}/x/0.tar'


def copy(address: str, path: Path) -> list[int]:
    """Copies a file and returns the numbers of bytes that it reported."""
    reported: list[int] = []
    copy_file(address, look_up(address), path, reported.append)
    return reported


class TestCopy:
    def test_is_read_in_blocks(self, server: FileServer, tmp_path: Path) -> None:
        reported = copy(address_of(server), tmp_path / 'copy')
        assert (tmp_path / 'copy').read_bytes() == CONTENT
        assert reported == [0, *[8000] * 2, 4500] and not server.requests['whole']

    def test_goes_on_where_it_broke_off(self, server: FileServer, tmp_path: Path) -> None:
        (tmp_path / 'copy').write_bytes(CONTENT[:18_000])
        assert copy(address_of(server), tmp_path / 'copy') == [18_000, 2500]
        assert (tmp_path / 'copy').read_bytes() == CONTENT
        assert server.requests['GET'] == 1 + 3  # one asks whether there are ranges

    def test_keeps_what_came_if_the_server_breaks_off_for_good(self, server: FileServer, tmp_path: Path) -> None:
        state = look_up(address_of(server))

        def break_off(count: int) -> None:
            server.breaks = 1000 * bool(count)

        with pytest.raises(RemoteFault, match=r'^cannot be read \(.*\): check the address and .* what came is kept$'):
            copy_file(address_of(server), state, tmp_path / 'copy', break_off)
        assert (tmp_path / 'copy').read_bytes() == CONTENT[:8000]

    def test_outlives_a_server_that_breaks_off_some_times(self, server: FileServer, tmp_path: Path) -> None:
        state = look_up(address_of(server))
        copy_file(address_of(server), state, tmp_path / 'copy', lambda count: setattr(server, 'breaks', 9))
        assert (tmp_path / 'copy').read_bytes() == CONTENT

    def test_outlives_a_server_that_stalls(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = look_up(address_of(server))
        monkeypatch.setattr(remote_files, 'ANSWER_SECONDS', 0.5)
        stalls = iter([1])
        copy_file(address_of(server), state, tmp_path / 'copy', lambda _: setattr(server, 'stalls', next(stalls, 0)))
        assert (tmp_path / 'copy').read_bytes() == CONTENT

    def test_a_server_that_stalls_for_ever_is_one_sentence(
        self, server: FileServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote_files, 'LOOK_UP_SECONDS', 0.1)
        server.is_silent = True
        with pytest.raises(RemoteFault, match=r'^cannot be read \(no answer in time\): check'):
            look_up(address_of(server), insist=False)

    def test_is_whole_from_a_server_without_ranges(self, server: FileServer, tmp_path: Path) -> None:
        server.ranges = False
        (tmp_path / 'copy').write_bytes(b'old')
        assert copy(address_of(server), tmp_path / 'copy') == [len(CONTENT)]
        assert (tmp_path / 'copy').read_bytes() == CONTENT

    def test_of_a_whole_file_may_take_longer_than_a_request_usually_may(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usual = {'timeout': aiohttp.ClientTimeout(total=0.3)}  # five minutes, if nobody sets it
        monkeypatch.setitem(fsspec.config.conf, 'http', {'client_kwargs': usual})
        server.ranges, server.pause = False, 0.5
        copy(address_of(server), tmp_path / 'copy')
        assert (tmp_path / 'copy').read_bytes() == CONTENT

    @pytest.mark.parametrize('protocol', ['memory', 'file'])
    def test_works_with_other_file_systems(self, protocol: str, tmp_path: Path) -> None:
        address = f'{protocol}://{tmp_path.as_posix()}/x.tar'
        with fsspec.open(address, 'wb') as file:
            file.write(CONTENT)
        state = look_up(address)
        assert state.size == len(CONTENT) and state.version
        copy(address, tmp_path / 'copy')
        assert (tmp_path / 'copy').read_bytes() == CONTENT


class TestLies:
    @pytest.mark.parametrize('ranges', [True, False])
    def test_fewer_bytes_than_announced(self, ranges: bool, server: FileServer, tmp_path: Path) -> None:
        state = look_up(address_of(server))
        server.shortened, server.ranges = 10, ranges
        with pytest.raises(RemoteFault, match=r'(990 instead of 1,000|20,490 instead of 20,500) bytes came'):
            copy_file(address_of(server), state, tmp_path / 'copy', lambda _: None)

    def test_more_bytes_than_announced(self, server: FileServer, tmp_path: Path) -> None:
        state, server.ranges = look_up(address_of(server)), False
        with pytest.raises(RemoteFault, match=r'did not arrive as its server announced it .*20,500 instead of 20,400'):
            copy_file(address_of(server), state._replace(size=20_400), tmp_path / 'copy', lambda _: None)
        assert not (tmp_path / 'copy').exists()

    @pytest.mark.parametrize('is_right', [True, False])
    def test_a_checksum_is_compared(self, is_right: bool, server: FileServer, tmp_path: Path) -> None:
        digest = hashlib.md5(CONTENT if is_right else b'').digest()
        server.headers['Content-MD5'] = base64.b64encode(digest).decode()
        if is_right:
            copy(address_of(server), tmp_path / 'copy')
        else:
            with pytest.raises(RemoteFault, match=r'announced it \(its MD5 is another one\): start again'):
                copy(address_of(server), tmp_path / 'copy')
        assert (tmp_path / 'copy').exists() == is_right

    def test_no_length(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsspec.filesystem('memory').pipe('/x.tar', b'x')
        monkeypatch.setattr(fsspec.get_filesystem_class('memory'), 'info', lambda *_: {'size': None})
        with pytest.raises(RemoteFault, match='has no length that its server tells'):
            look_up('memory://x.tar')


class TestFaults:
    @pytest.mark.parametrize(
        ('status', 'sentence'),
        [
            (401, r'may not be read \(ClientResponseError: .*401.*\): give fsspec the rights, see docs/data\.md'),
            (403, r'may not be read \(ClientResponseError: .*403.*\): give fsspec the rights, see docs/data\.md'),
            (404, 'does not exist: check its name, and the numbers of a range in braces'),
        ],
    )
    def test_are_not_asked_for_again(self, status: int, sentence: str, server: FileServer) -> None:
        server.status = status
        with pytest.raises(RemoteFault, match=f'^{sentence}$'):
            look_up(address_of(server))
        assert server.requests['HEAD'] == 1

    def test_that_may_pass_are_asked_for_again(self, server: FileServer) -> None:
        server.status = 503
        with pytest.raises(RemoteFault, match=r'^cannot be read \(ClientResponseError: .*503'):
            look_up(address_of(server))
        assert server.requests['HEAD'] == 5

    @pytest.mark.parametrize('error', ['PermissionError', 'NoCredentialsError'])
    def test_of_buckets_without_rights(self, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The errors of s3fs: its own for a refusal, botocore's where nobody has configured anything."""

        def refuse(*_: Any, **__: Any) -> None:
            raise (
                PermissionError('Forbidden') if error == 'PermissionError' else type(error, (Exception,), {})('no key')
            )

        monkeypatch.setattr(fsspec.get_filesystem_class('memory'), 'info', refuse)
        with pytest.raises(RemoteFault, match=rf"^may not be read \({error}: '(Forbidden|no key)'\): give fsspec"):
            look_up('memory://bucket/x.tar')

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsspec.register_implementation('there', 'not_there.FileSystem', errtxt='Install not_there to be there.')
        with pytest.raises(
            RemoteFault, match=r'^needs a package that is not installed: Install not_there to be there$'
        ):
            look_up('there://bucket/x.tar')

    def test_an_unknown_protocol_is_named(self) -> None:
        with pytest.raises(RemoteFault, match=r"^cannot be read \(ValueError: 'Protocol not known: nowhere'\)"):
            look_up('nowhere://bucket/x.tar')

    def test_a_missing_variable_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv('SIGNATURE', raising=False)
        with pytest.raises(RemoteFault, match=r'^names the environment variable SIGNATURE, which is not set$'):
            look_up('https://a.org/x.tar?$SIGNATURE')

    def test_show_no_secrets(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level('INFO', logger='datamodules')
        monkeypatch.setenv('SIGNATURE', 'sig=word')
        address, server.queries = f'{address_of(server)}?$SIGNATURE', 'sig=word'
        copy(address, tmp_path / 'copy')
        for server.status, server.queries in ((200, 'sig=other'), (500, 'sig=word')):  # type: ignore[misc]
            with pytest.raises(RemoteFault) as raised:
                look_up(address)
            assert 'word' not in f'{raised.value} {raised.value.__cause__} {caplog.text}'


def test_states_differ_with_the_content(server: FileServer) -> None:
    first = look_up(address_of(server))
    server.files['x/0.tar'] = CONTENT[::-1]
    second = look_up(address_of(server))
    assert isinstance(first, FileState) and first.size == second.size and first.version != second.version
