from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from datamodules.files import checksums
from datamodules.files.checksums import DamagedFile, _checked_length, append_checksums, check_content, trailer_bytes
from datamodules.usage_error import UsageError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, 'BLOCK_BYTES', 100)


def write_with_checksums(path: Path, size: int) -> bytes:
    content = np.random.default_rng(size).bytes(size)
    path.write_bytes(content)
    append_checksums(path)
    return content


@pytest.mark.parametrize('size', [0, 1, 99, 100, 101, 1000])
def test_an_unchanged_file_passes(size: int, tmp_path: Path) -> None:
    content = write_with_checksums(tmp_path / 'x', size)
    assert check_content(tmp_path / 'x') == size
    assert (tmp_path / 'x').read_bytes()[:size] == content
    assert (tmp_path / 'x').stat().st_size == size + trailer_bytes(size)


def test_every_changed_bit_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    write_with_checksums(tmp_path / 'x', 101)
    intact = (tmp_path / 'x').read_bytes()
    assert _checked_length(io.BytesIO(intact)) == 101
    for position in range(8 * len(intact)):
        changed = bytearray(intact)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(DamagedFile):
            _checked_length(io.BytesIO(changed))
    for size in range(len(intact)):
        with pytest.raises(DamagedFile):
            _checked_length(io.BytesIO(intact[:size]))


@pytest.mark.parametrize('damage', ['cut', 'empty', 'zeros', 'folder', 'FIFO', 'unreadable'])
def test_the_message_names_the_file_and_the_remedy(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_with_checksums(tmp_path / 'x', 250)
    if damage == 'unreadable':
        monkeypatch.setattr(checksums, '_checked_length', lambda file: os.open(tmp_path / 'no', os.O_RDONLY))
    elif damage in ('folder', 'FIFO'):
        (tmp_path / 'x').unlink()
        (os.mkfifo if damage == 'FIFO' else os.mkdir)(tmp_path / 'x')
    else:
        (tmp_path / 'x').write_bytes({'cut': content[:99], 'empty': b'', 'zeros': bytes(300)}[damage])
    with pytest.raises(UsageError, match=r'/x is .*: (delete|remove) it, and|/x cannot be read .*: delete it, and'):
        check_content(tmp_path / 'x')


def test_reserved_space_after_the_content_is_removed(tmp_path: Path) -> None:
    (tmp_path / 'x').write_bytes(b'abc' + bytes(1000))
    append_checksums(tmp_path / 'x', 3)
    assert check_content(tmp_path / 'x') == 3 and (tmp_path / 'x').stat().st_size == 3 + trailer_bytes(3)


class TestLargeFiles:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(checksums, 'MAX_CHECKED_BLOCKS', 5)
        write_with_checksums(tmp_path / 'x', 1990)
        return tmp_path / 'x'

    def damage(self, file: Path, start: int, stop: int) -> None:
        content = bytearray(file.read_bytes())
        content[start:stop] = bytes(stop - start)
        file.write_bytes(content)

    @pytest.mark.parametrize('position', [0, 1989])
    def test_are_checked_at_both_ends(self, file: Path, position: int) -> None:
        self.damage(file, position, position + 1)
        with pytest.raises(UsageError, match='the checksum of block'):
            check_content(file)

    def test_are_checked_in_other_places_each_time(self, file: Path) -> None:
        self.damage(file, 1050, 1060)
        passed = 0
        for _ in range(200):
            try:
                check_content(file)
                passed += 1
            except UsageError:
                pass
        assert 0 < passed < 200

    def test_no_block_is_checked_twice(self) -> None:
        assert checksums._blocks_to_check(64) == list(range(64))
        chosen = checksums._blocks_to_check(65)
        assert len(set(chosen)) == 64 and chosen[0] == 0 and chosen[-1] == 64
