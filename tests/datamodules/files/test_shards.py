from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from datamodules.files.shards import find_shards, holds_shards, is_pattern
from tests.helpers.published import samples, write_shard


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for shard in range(3):
        write_shard(tmp_path / 'shards' / f'{shard:05d}.tar', samples(range(3 * shard, 3 * shard + 3)))
    return tmp_path


class TestPatterns:
    @pytest.mark.parametrize(
        ('pattern', 'numbers'),
        [
            ('shards', '012'),
            ('shards/*.tar', '012'),
            ('shards/0000[12].tar', '12'),
            ('shards/{00000..00001}.tar', '01'),
            ('shards/0{00..00}0{1..2}.tar', '12'),
            ('shards/00002.tar', '2'),
        ],
    )
    def test_expand_to_shards(self, pattern: str, numbers: str, root: Path) -> None:
        shards = find_shards(str(root / pattern), 'data.shards')
        assert [shard.name for shard in shards] == [f'0000{number}.tar' for number in numbers]
        assert is_pattern(str(root / pattern)) == (pattern != 'shards')

    def test_several_patterns_give_each_shard_once_sorted(self, root: Path) -> None:
        shards = find_shards([str(root / 'shards/00002.tar'), str(root / 'shards/*.tar')], 'data.shards')
        assert [shard.name for shard in shards] == ['00000.tar', '00001.tar', '00002.tar']

    def test_are_in_natural_order_and_each_file_counts_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ('10', '9', '[x]'):
            (root / f'shards/{name}.tar').touch()
        (root / 'shards/latest.tar').symlink_to('9.tar')
        monkeypatch.chdir(root)
        shards = find_shards([str(root / 'shards/[19l]*.tar'), 'shards/9.tar', 'shards/[x].tar'], 'data.shards')
        assert [shard.name for shard in shards] == ['9.tar', '10.tar', '[x].tar']

    def test_a_folder_may_hold_what_is_no_shard(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ('._00000.tar', '00003.tar.gz', '00000.parquet', '.DS_Store'):
            (root / 'shards' / name).touch()
        os.mkfifo(root / 'shards/00004.tar')
        (root / 'shards/00005.tar').symlink_to('00005.tar')
        with caplog.at_level(logging.WARNING):
            shards = find_shards(str(root / 'shards'), 'data.shards')
        assert [shard.name for shard in shards] == ['00000.tar', '00001.tar', '00002.tar']
        for line in (
            "hidden; first: '._00000.tar'",
            "compressed and must be unpacked; first: '00003.tar.gz'",
            'no files',
        ):
            assert f' of 7 shards are {line}' in caplog.text
        assert holds_shards(str(root / 'shards')) and not holds_shards(str(root))

    @pytest.mark.parametrize('url', ['pipe:cat a.tar', 'PIPE:cat a.tar'])
    def test_streams_are_rejected(self, url: str) -> None:
        with pytest.raises(ValueError, match=r'data\.shards=.* SafeCLIP needs row ids.* write the shards to files'):
            find_shards(url, 'data.shards')

    def test_bad_input_is_reported_in_one_sentence(self, root: Path) -> None:
        (root / 'empty').mkdir()
        (root / 'a.tar.gz').touch()
        os.mkfifo(root / 'pipe.tar')
        (root / 'packed').mkdir()
        (root / 'packed/a.tar.gz').touch()
        write_shard(root / 'two/train-000.tar', samples(range(1)))
        write_shard(root / 'two/validation-000.tar', samples(range(1)))
        for pattern, message in [
            ('empty', r'data\.shards=.* names no \.tar file'),
            ('absent.tar', '1 of 1 shards do not exist'),
            ('shards/{00001..00004}.tar', r'2 of 4 shards do not exist or are no files, the first is .*00003\.tar'),
            ('a.tar.gz', 'is not an uncompressed .tar'),
            (
                'packed',
                r"has no usable \.tar file: 1 of 1 shards are compressed and must be unpacked; first: 'a\.ta",
            ),
            ('shards/{0..99999999}.tar', 'names over 1,000,000 shards'),
            ('pipe.tar', 'do not exist or are no files'),
            ('two', r"contains shards of several sets: name 'train-\*\.tar' or 'validation-\*\.tar'"),
        ]:
            with pytest.raises(ValueError, match=message):
                find_shards(str(root / pattern), 'data.shards')
