from __future__ import annotations

import io
import logging
import os
import re
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from datamodules.files.sample_texts import MAX_TEXT_BYTES
from datamodules.files.shard_index import MetadataKeys, index_shards
from datamodules.files.shards import ShardFolder, find_shards, shards_root
from datamodules.usage_error import UsageError
from tests.helpers.mutations import mutations
from tests.helpers.picture_files import picture
from tests.helpers.published import samples, write_shard


def index(folder: Path, keys: MetadataKeys | None = None) -> pa.Table:
    shards = find_shards(str(folder), 'data.shards')
    return index_shards(ShardFolder(shards_root(shards), shards), folder / 'cache', 'data.shards', keys)


def index_members(folder: Path, members: dict[str, bytes], keys: MetadataKeys | None = None) -> list[tuple[str, str]]:
    """Returns key and caption of each pair of a shard with these members."""
    write_shard(folder / '0.tar', members)
    table = index(folder, keys)
    return list(zip(table['key'].to_pylist(), table['caption'].to_pylist(), strict=True))


def captioned(*names: str) -> dict[str, bytes]:
    """Pictures with their names as captions."""
    return {f'{name}.{end}': name.encode() for name in names for end in ('jpg', 'txt')}


def same(*names: str) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


class TestOrder:
    def test_rows_follow_shards_and_keys_whatever_the_order_of_the_members(self, tmp_path: Path) -> None:
        tables = []
        for seed in range(3):
            for shard in (9, 10):
                members = [*(captioned('2', '10', 'b/1', 'a') | samples(range(3))).items()]
                order = np.random.default_rng([seed, shard]).permutation(len(members))
                write_shard(tmp_path / f'{seed}/{shard}.tar', {members[i][0]: members[i][1] for i in order})
            tables.append(index(tmp_path / str(seed)))
        expected = ['000000000', '000000001', '000000002', '2', '10', 'a', 'b/1']
        assert tables[0]['key'].to_pylist() == 2 * expected
        assert [re.sub(':.*', '', image) for image in tables[0]['image'].to_pylist()] == ['9.tar'] * 7 + ['10.tar'] * 7
        assert all(a.drop(['image']).equals(b.drop(['image'])) for a, b in pairwise(tables))

    def test_a_key_of_thousands_of_digits_has_its_place(self, tmp_path: Path) -> None:
        assert [key[:1] for key, _ in index_members(tmp_path, captioned('9' * 4000, '1' * 30, '3'))] == ['3', '1', '9']


class TestPairing:
    @pytest.mark.parametrize(
        'names',
        [
            ('cat0', 'cat0.v2', 'cat1', 'cat1.v2'), ('img.v1.000', 'img.v1.001'), ('a.b/0', 'a.b/1', 'c/0'),
            ('../0', '/etc/1'), ('née 猫', 'x\ny'), ('a' * 300,),
        ],
    )  # fmt: skip
    def test_keys_may_have_dots_folders_and_any_letters(self, names: tuple[str, ...], tmp_path: Path) -> None:
        assert sorted(index_members(tmp_path, captioned(*names))) == sorted((n, ' '.join(n.split())) for n in names)

    def test_a_caption_up_to_the_first_dot_belongs_to_the_picture_as_in_webdataset(self, tmp_path: Path) -> None:
        members = {'0.image.jpg': b'', '0.txt': b'zero', '1.image.jpg': b'', '1.json': b'{"caption": "one"}'}
        assert index_members(tmp_path, members) == [('0', 'zero'), ('1', 'one')]

    @pytest.mark.parametrize(
        ('picture', 'text', 'key'),
        [('img.v1.{}.jpg', 'img.v1.{}.jpg.txt', 'img.v1.{}.jpg'), ('v1.0_{}.image.jpg', 'v1.0_{}.txt', 'v1.0_{}')],
    )
    def test_dotted_keys_may_have_a_further_suffix(self, picture: str, text: str, key: str, tmp_path: Path) -> None:
        members = {picture.format(n): b'' for n in range(3)} | {text.format(n): f'a {n}'.encode() for n in range(3)}
        assert index_members(tmp_path, members) == [(key.format(n), f'a {n}') for n in range(3)]

    def test_the_first_picture_of_a_sample_counts_not_that_of_the_shortest_name(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        members = {'0.image.jpg': b'image', '0.mask.jpg': b'', '0.txt': b'zero'}
        assert index_members(tmp_path, members) == [('0', 'zero')]
        assert index(tmp_path)['image'][0].as_py().endswith(':5')
        assert "1 of 2 pictures are further ones of a sample; first: '0.tar:0.mask.jpg'" in caplog.text
        assert len(index_members(tmp_path, {'1.at.jpg': b'', '1.jpg': b'image', '1.a.txt': b'a'})) == 1
        assert index(tmp_path)['image'][0].as_py().endswith(':5')

    def test_members_may_be_apart_begin_with_a_dot_and_slash_and_have_ends_in_capitals(self, tmp_path: Path) -> None:
        members = {'./a.JPG': b'', 'b.Png': b'', './b.TXT': b'b', 'a.txt': b'a'}
        assert index_members(tmp_path, members) == same('a', 'b')

    def test_further_pictures_of_a_sample_are_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        index_members(tmp_path, captioned('a', 'b') | {'a.png': b'', 'a.JPG': b'', 'b.seg.png': b''})
        assert "2 of 5 pictures are further ones of a sample; first: '0.tar:a.JPG'" in caplog.text
        assert "1 of 5 pictures have no caption; first: '0.tar:b.seg'" in caplog.text

    def test_a_name_that_comes_twice_counts_as_it_came_last(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with tarfile.open(tmp_path / '0.tar', 'w') as tar:
            for name, content in [('a.jpg', b'1'), ('a.txt', b'old'), ('a.jpg', b'22'), ('a.txt', b'new')]:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        table = index(tmp_path)
        assert table['caption'].to_pylist() == ['new'] and table['image'][0].as_py().endswith(':2')
        assert '2 of 4 members are replaced by a later one of the same name' in caplog.text

    def test_shards_may_have_the_same_keys(self, tmp_path: Path) -> None:
        for shard in '01':
            write_shard(tmp_path / f'{shard}.tar', captioned('a'))
        assert [image.partition(':512')[0] for image in index(tmp_path)['image'].to_pylist()] == ['0.tar:a', '1.tar:a']


class TestTexts:
    TEXTS: ClassVar = {
        'x.jpg': b'',
        'x.txt': b'a\r\ncat',
        'x.json': b'{"caption": "a dog", "alt": "an ox", "uid": "00ff"}',
    }

    def test_a_text_file_wins_unless_another_key_is_named(self, tmp_path: Path) -> None:
        assert index_members(tmp_path, self.TEXTS) == [('x', 'a cat')]
        assert [index(tmp_path, MetadataKeys(caption=key))['caption'].to_pylist() for key in ('caption', 'alt')] == [
            ['a dog'],
            ['an ox'],
        ]
        assert index_members(tmp_path, {'y.jpg': b'', 'y.json': b'{"caption": "a\\ndog"}'}) == [('y', 'a dog')]

    def test_shards_without_captions_are_refused_with_where_they_belong(self, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError,
            match=r"2 of 2 pictures have no caption; .* as data\.captions_from of .* end in '\.text' are not read\)\.$",
        ):
            index_members(tmp_path, {'0.jpg': b'', '0.text': b'a', '1.jpg': b'', '1.text': b'a'})

    @pytest.mark.parametrize('content', [b'\xef\xbb\xbfcaf\xc3\xa9', 'café'.encode('utf-16')], ids=['BOM', 'UTF-16'])
    def test_a_text_may_begin_with_a_byte_order_mark(self, content: bytes, tmp_path: Path) -> None:
        assert index_members(tmp_path, {'y.jpg': b'', 'y.txt': content}) == [('y', 'café')]


class TestLeftOut:
    def test_is_counted_and_named_whenever_the_index_is_used(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = {
            'a.txt': b'no picture', 'b.jpg': b'', 'c.jpg': b'', 'c.txt': b' \n', 'd.jpg': b'',
            'd.json': b'{"caption": nothing}', '._0.jpg': b'of macOS', '__MACOSX/0.jpg': b'', 'e.jpg': b'',
            'e.txt': b'x' * (MAX_TEXT_BYTES + 1), 'Thumbs.db': b'', 'x.npy': b'',
        }  # fmt: skip
        write_shard(tmp_path / '0.tar', broken | captioned('ok'))
        for _ in range(2):
            caplog.clear()
            assert index(tmp_path)['key'].to_pylist() == ['ok']
            assert [record.getMessage() for record in caplog.records] == [
                "data.shards: 2 of 12 members are hidden or left behind by a system; first: '0.tar:._0.jpg'",
                "data.shards: 1 of 6 samples have no picture; first: '0.tar:a'",
                "data.shards: 4 of 5 pictures have no caption; first: '0.tar:b'",
            ]

    def test_names_from_the_data_are_quoted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        index_members(tmp_path, captioned('a') | {'\x1b[2J\nerror: b.jpg': b''})
        assert r"first: '0.tar:\x1b[2J\nerror: b'" in caplog.text and '\x1b' not in caplog.text

    def test_links_and_members_beyond_any_size_are_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert index_members(tmp_path, captioned('a', 'n' * 5000)) == same('a')
        assert '2 of 4 members have a name of over 4,096 characters' in caplog.text
        write_shard(tmp_path / '0.tar', captioned('a', 'b'))
        link, huge = tarfile.TarInfo('b.jpg'), tarfile.TarInfo('c.jpg')
        link.type, link.linkname, huge.size = tarfile.LNKTYPE, 'a.jpg', 1 << 29
        content = link.tobuf() + (tmp_path / '0.tar').read_bytes()[: 8 * 512] + huge.tobuf()
        (tmp_path / '0.tar').write_bytes(content)
        os.truncate(tmp_path / '0.tar', len(content) + huge.size)
        assert index(tmp_path)['key'].to_pylist() == ['a', 'b']
        assert '1 of 6 members are links, devices or sparse files' in caplog.text
        assert '1 of 6 members are over 256 MiB' in caplog.text


class TestDamage:
    @pytest.mark.parametrize(('size', 'pairs'), [(100, 0), (2048, 1), (2100, 1), (3584, 1), (3588, 2)])
    def test_the_part_before_it_is_read_and_the_shard_is_named(
        self, size: int, pairs: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for shard in range(3):
            write_shard(tmp_path / f'{shard}.tar', captioned('a', 'b'))
        os.truncate(tmp_path / '1.tar', size)
        assert len(index(tmp_path)) == 4 + pairs
        assert "1 of 3 shards are damaged and read up to the damage; first: '1.tar' (" in caplog.text

    def test_shards_without_any_pair_are_refused_with_the_reasons(self, tmp_path: Path) -> None:
        (tmp_path / '0.tar').write_bytes(b'<html>not found</html>' * 100)
        with pytest.raises(UsageError, match=r"no usable pair: 1 of 1 shards are damaged .*'0.tar' \(not a tar file\)"):
            index(tmp_path)
        write_shard(tmp_path / '0.tar', {})
        with pytest.raises(UsageError, match='no usable pair: its 1 shards are empty'):
            index(tmp_path)

    def test_a_shard_whose_name_is_not_utf8_is_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ('0.tar', '\udce9.tar'):
            write_shard(tmp_path / 'x.tar', captioned('a'))
            (tmp_path / 'x.tar').rename(tmp_path / name)
        shards = find_shards([str(tmp_path / '*.tar')], 'data.shards')
        assert len(index_shards(ShardFolder(tmp_path, shards), tmp_path, 'data.shards')) == 1
        assert r"1 of 2 shards have a name that is not UTF-8; first: '\udce9.tar'" in caplog.text


def with_valid_checksums(tar: bytes) -> bytes:
    """Makes readers believe damaged headers."""
    blocks = [bytearray(tar[start : start + 512]) for start in range(0, len(tar), 512)]
    for block in blocks:
        if block[257:262] == b'ustar' and len(block) == 512:
            block[148:156] = b'%06o\0 ' % (sum(block) - sum(block[148:156]) + 8 * 32)
    return b''.join(blocks)


def test_any_damage_is_counted_or_refused_in_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = samples(range(2)) | captioned('cat.v1', 'é' * 60) | {'p.png': picture(1, 'PNG')}
    write_shard(tmp_path / '0.tar', members)
    shard = tmp_path / 'changed/0.tar'
    shard.parent.mkdir()
    caplog.set_level(logging.WARNING)
    for number, content in enumerate(mutations((tmp_path / '0.tar').read_bytes(), 60)):
        shard.write_bytes(with_valid_checksums(content) if number % 2 else content)
        caplog.clear()
        try:
            pairs = index_shards(ShardFolder(shard.parent, [shard]), tmp_path / f'cache{number}', 'data.shards')
        except UsageError as error:
            assert '\n' not in str(error) and 'no usable pair' in str(error)
            continue
        counted = re.findall(r'(\d+) of (\d+) pictures', caplog.text)
        assert not counted or len(pairs) + sum(int(count) for count, _ in counted) == int(counted[0][1])
        assert all(pairs['caption'].to_pylist()) and len(set(pairs['key'].to_pylist())) == len(pairs)
