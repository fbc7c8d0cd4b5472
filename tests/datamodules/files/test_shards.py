from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.files.shards import find_shards, is_pattern, json_text
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

    @pytest.mark.parametrize(
        'url', ['pipe:cat a.tar', 'https://a.org/{0..9}.tar', 's3://a/b.tar', 'HTTP://a.org/b.tar']
    )
    def test_streams_are_rejected(self, url: str) -> None:
        with pytest.raises(ValueError, match=r'data\.shards=.* SafeCLIP needs row ids.* shards must be local files'):
            find_shards(url, 'data.shards')

    def test_bad_input_is_reported_in_one_sentence(self, root: Path) -> None:
        (root / 'empty').mkdir()
        (root / 'a.tar.gz').touch()
        write_shard(root / 'two/train-000.tar', samples(range(1)))
        write_shard(root / 'two/validation-000.tar', samples(range(1)))
        for pattern, message in [
            ('empty', r'data\.shards=.* names no \.tar file'),
            ('absent.tar', '1 of 1 shards do not exist'),
            ('shards/{00001..00004}.tar', r'2 of 4 shards do not exist, the first is .*00003\.tar'),
            ('a.tar.gz', 'is not an uncompressed .tar'),
            ('two', r'contains shards of several sets: name train-\*\.tar or validation-\*\.tar'),
        ]:
            with pytest.raises(ValueError, match=message):
                find_shards(str(root / pattern), 'data.shards')


@pytest.mark.parametrize(
    ('metadata', 'text'),
    [
        (b'{"a": "b"}', 'b'), (b'{"a": 3}', '3'), (b'{"a": "\\ud800"}', '?'), (b'{"a": true}', None), (b'[1]', None),
        (b'{"a": ["b"]}', None), (b'{}', None), (None, None), (b'\xff', None), (b'[' * 100_000, None), (b'"a"', None),
    ],
)  # fmt: skip
def test_json_text_returns_only_text_and_numbers(metadata: bytes | None, text: str | None) -> None:
    assert json_text(metadata, 'a') == text
