from __future__ import annotations

import datetime
import json
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.cc3m import CC3M, find_columns
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from tests.helpers.file_server import serve
from tests.helpers.mutations import assert_one_sentence, mutations
from tests.helpers.picture_files import number_of, picture, write_picture
from tests.helpers.published import samples, write_list, write_part, write_shard

PUBLISHED = [f'a person number {number} says " hello \thttp://example.org/{number}' for number in range(6)]


def numbers(table: PairTable) -> list[int]:
    """Numbers of the pictures; asserts that captions tell the same."""
    found = [number_of(table.open(row)) for row in range(len(table))]
    assert all(str(number) in caption for number, caption in zip(found, table.caption.to_pylist(), strict=True))
    return found


class TestPublishedList:
    @pytest.mark.parametrize('folder', ['Train', 'images', '.'])
    @pytest.mark.parametrize('name', ['{:09d}.jpg', '{:d}.png', '{:09d}.JPEG'])
    def test_images_are_named_after_their_line(self, folder: str, name: str, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'Train.tsv', PUBLISHED)
        for number in (0, 2, 5):
            write_picture(tmp_path / folder / name.format(number), number)
        assert numbers(CC3M(path).load_table()) == [0, 2, 5]
        assert numbers(CC3M(str(tmp_path)).load_table()) == [0, 2, 5]

    def test_images_may_lie_in_numbered_folders(self, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'Train.tsv', PUBLISHED)
        for number in (4, 1, 3):
            write_picture(tmp_path / 'images' / f'{number // 2:05d}' / f'{number:09d}.jpg', number)
        assert numbers(CC3M(path).load_table()) == [1, 3, 4]

    def test_lines_without_an_image_are_counted_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = write_list(tmp_path / 'Train.tsv', PUBLISHED)
        write_picture(tmp_path / 'images' / '000000002.jpg', 2)
        with caplog.at_level(logging.WARNING):
            CC3M(path).load_table()
        assert [record.getMessage() for record in caplog.records] == [
            f"data.root='{path}': 5 of 6 lines have no image and are left out"
        ]

    def test_captions_may_contain_quotes_and_empty_lines_count(self, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'Train.tsv', ['" open quote\tu', '', 'and  "another\tu'])
        for line in range(3):
            write_picture(tmp_path / 'images' / f'{line:09d}.jpg', line)
        table = CC3M(path).load_table()
        assert table.caption.to_pylist() == ['" open quote', 'and "another']
        assert [number_of(table.open(row)) for row in range(2)] == [0, 2]

    def test_the_header_for_img2dataset_is_not_a_pair(self, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'Train.tsv', ['caption\turl', *PUBLISHED])
        write_picture(tmp_path / 'images' / '000000003.jpg', 3)
        assert numbers(CC3M(path).load_table()) == [3]

    def test_an_address_may_come_first_as_in_cc12m(self, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'list.tsv', [f'http://a.org/{number}\tphoto {number}' for number in range(6)])
        for number in (0, 4):
            write_picture(tmp_path / 'images' / f'{number}.jpg', number)
        assert numbers(CC3M(path).load_table()) == [0, 4]

    @pytest.mark.parametrize('scheme', ['HTTP://', 's3://', 'ftp://', '//', 'www.'])
    def test_addresses_before_captions_may_have_any_scheme(self, scheme: str) -> None:
        assert find_columns([f'{scheme}a.org/{n}.jpg\ta photo {n}' for n in range(3)], 'x').names == ['url', 'caption']

    @pytest.mark.parametrize('line', ['"http://a.org/{0}"\t"a ""photo"" {0}"', '"a ""photo"" {0}"\thttp://a.org/{0}'])
    def test_quotes_around_fields_are_no_part_of_them(self, line: str, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'list.tsv', [line.format(number) for number in range(6)])
        for number in (0, 4):
            write_picture(tmp_path / 'images' / f'{number}.jpg', number)
        table = CC3M(path).load_table()
        assert numbers(table) == [0, 4] and table.captions([1]) == ['a "photo" 4']

    @pytest.mark.parametrize('header', ['caption\turl', 'TEXT\tURL', 'words\tplace'])
    def test_a_header_of_any_names_shifts_no_caption(self, header: str, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'list.tsv', [header, *PUBLISHED])
        for number in (0, 4):
            write_picture(tmp_path / 'images' / f'{number}.jpg', number)
        assert numbers(CC3M(path).load_table()) == [0, 4]

    def test_a_caption_that_is_the_word_caption_is_no_header(self) -> None:
        assert find_columns(['caption\thttp://a.org/0.jpg', 'a dog\thttp://a.org/1.jpg'], 'x').start == 0

    def test_bad_lines_and_gaps_shift_no_caption(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        lines = [*PUBLISHED]
        lines[1], lines[2] = 'a\ttab\thttp://a.org', ''
        (tmp_path / 'list.tsv').write_bytes('\n'.join(lines).encode().replace(b'person number 3', b'caf\xe9'))
        for number in (0, 1, 3, 5):
            write_picture(tmp_path / 'images' / f'{number}.jpg', number)
        write_picture(tmp_path / 'images' / f'{"9" * 30}.jpg', 9)
        with caplog.at_level(logging.WARNING):
            assert numbers(CC3M(str(tmp_path / 'list.tsv')).load_table()) == [0, 5]
        assert '2 of 6 rows do not have 2 fields (separate them by tabs); first: line 2; left out' in caplog.text
        assert '1 of 6 rows are not UTF-8' in caplog.text and '2 of 6 lines have no image' in caplog.text

    def test_an_index_assigns_lines_to_images_of_other_names(self, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'Train.tsv', PUBLISHED)
        for number in (1, 4):
            write_picture(tmp_path / 'images' / f'{number:x}_1577.png', number)
        write_list(tmp_path / 'images' / 'images.tsv', ['4\t4_1577.png', '1\t1_1577.png'])
        assert numbers(CC3M(path).load_table()) == [1, 4]


def test_mutated_lists_end_in_a_sentence(tmp_path: Path) -> None:
    for number in range(6):
        write_picture(tmp_path / 'images' / f'{number}.jpg', number)
    index = '\n'.join(f'{number}\t{number}.jpg' for number in range(6))
    for name, content in (('list.tsv', '\n'.join(PUBLISHED)), ('images/images.tsv', index)):
        write_list(tmp_path / 'list.tsv', PUBLISHED)
        for data in mutations(content.encode(), 80):
            (tmp_path / name).write_bytes(data)
            with assert_one_sentence():
                CC3M(str(tmp_path / 'list.tsv')).load_table()


class TestFolders:
    @pytest.mark.parametrize('metadata', [True, False])
    def test_captions_are_read_from_metadata_or_from_files_beside_images(self, metadata: bool, tmp_path: Path) -> None:
        write_part(tmp_path / '00001', range(3, 6), metadata)
        write_part(tmp_path / '00000', range(3), metadata)
        table = CC3M(str(tmp_path)).load_table()
        assert numbers(table) == list(range(6)) and table.image[3].as_py() == '00001/000000003.jpg'

    def test_captions_may_be_only_in_json(self, tmp_path: Path) -> None:
        write_picture(tmp_path / '00000' / '000000004.jpg', 4)
        (tmp_path / '00000' / '000000004.json').write_text(json.dumps({'caption': 'caption\n4'}))
        assert CC3M(str(tmp_path)).load_table().caption.to_pylist() == ['caption 4']

    def test_images_without_a_caption_are_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_part(tmp_path / '00000', range(2), metadata=True)
        write_picture(tmp_path / '00000' / '000000009.jpg', 9)
        with caplog.at_level(logging.WARNING):
            assert numbers(CC3M(str(tmp_path)).load_table()) == [0, 1]
        assert '1 of 3 captions are empty' in caplog.text

    def test_the_list_is_used_where_folders_have_no_captions(self, tmp_path: Path) -> None:
        write_list(tmp_path / 'Train.tsv', PUBLISHED)
        write_picture(tmp_path / '00000' / '000000005.jpg', 5)
        (tmp_path / '00000' / '000000005.json').write_text('{"url": "u"}')
        pq.write_table(pa.table({'key': ['000000005'], 'url': ['u']}), tmp_path / '00000.parquet')
        assert numbers(CC3M(str(tmp_path)).load_table()) == [5]

    def test_keys_and_captions_may_be_of_other_types(self, tmp_path: Path) -> None:
        write_part(tmp_path / '00000', range(2), metadata=False)
        captions = pa.array([b'caption 1', b'caption 0'], pa.large_binary()).dictionary_encode()
        pq.write_table(pa.table({'key': [1, 0], 'caption': captions}), tmp_path / '00000.parquet')
        assert numbers(CC3M(str(tmp_path)).load_table()) == [0, 1]

    @pytest.mark.parametrize(
        'columns',
        [{'caption': ['a']}, {'key': ['000000000'], 'caption': [['a']]}, {'key': ['0'], 'caption': [b'\xff']}],
    )
    def test_a_metadata_table_of_another_form_is_named(self, columns: dict[str, Any], tmp_path: Path) -> None:
        write_part(tmp_path / '00000', range(1), metadata=False)
        pq.write_table(pa.table(columns), tmp_path / '00000.parquet')
        with pytest.raises(UsageError, match=r'00000\.parquet.* has no usable columns key and caption: remove it'):
            CC3M(str(tmp_path)).load_table()

    def test_mutated_metadata_ends_in_a_sentence(self, tmp_path: Path) -> None:
        write_part(tmp_path / '00000', range(2), metadata=True)
        file = tmp_path / '00000.parquet'
        for data in mutations(file.read_bytes(), 100):
            file.write_bytes(data)
            with assert_one_sentence():
                CC3M(str(tmp_path)).load_table()

    def test_a_metadata_table_costs_little(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_part(tmp_path / '00000', range(2), metadata=False)
        captions = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ['caption 7 ' + 'x' * 10**6])
        keys = pa.array([f'{number:09d}' for number in range(5000)])
        pq.write_table(pa.table({'key': keys, 'caption': captions}), tmp_path / '00000.parquet')  # 5 GB as strings
        assert [len(text) for text in CC3M(str(tmp_path)).load_table().captions([0, 1])] == [10_000, 10_000]
        monkeypatch.setattr('datamodules.cc3m._MAX_METADATA_ROWS', 4999)
        with pytest.raises(UsageError, match='has no usable columns'):
            CC3M(str(tmp_path)).load_table()

    @pytest.mark.parametrize('kind', ['pipe', 'link'])
    def test_a_metadata_table_must_be_a_file_inside(self, kind: str, tmp_path: Path) -> None:
        write_part(tmp_path / 'root/00000', range(2), metadata=False)
        write_part(tmp_path / 'private/00000', range(2), metadata=True)
        table = tmp_path / 'root/00000.parquet'
        os.mkfifo(table) if kind == 'pipe' else table.symlink_to(tmp_path / 'private/00000.parquet')
        with pytest.raises(UsageError, match=r'00000\.parquet. is (not a regular file|outside .*): remove it'):
            CC3M(str(tmp_path / 'root')).load_table()
        if kind == 'link':
            assert len(CC3M(str(tmp_path / 'root'), follow_outside=True).load_table()) == 2

    @pytest.mark.parametrize('follow_outside', [False, True])
    def test_caption_files_that_cannot_be_used_are_counted(
        self, follow_outside: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / 'root/00000'
        for number in range(4):
            write_picture(folder / f'{number:09d}.jpg', number)
        (tmp_path / 'secret').write_text('secret number 0')
        (folder / '000000000.txt').symlink_to('../../secret')
        (folder / '000000001.txt').mkdir()
        (folder / '000000002.txt').symlink_to('000000002.txt')
        (folder / '000000003.txt').write_text('number 3')
        with caplog.at_level(logging.WARNING):
            table = CC3M(str(tmp_path / 'root'), follow_outside=follow_outside).load_table()
        assert numbers(table) == ([0, 3] if follow_outside else [3])
        counts = '2 text files are not read (2 not a file)', '3 text files are not read (2 not a file, 1 outside)'
        assert (counts[0] if follow_outside else counts[1]) in caplog.text

    def test_a_damaged_metadata_table_is_named(self, tmp_path: Path) -> None:
        write_part(tmp_path / '00000', range(2), metadata=False)
        (tmp_path / '00000.parquet').write_bytes(b'PAR1')
        with pytest.raises(ValueError, match=r'00000\.parquet.* is damaged: remove it'):
            CC3M(str(tmp_path)).load_table()


class TestShards:
    @pytest.mark.parametrize('pattern', ['train', 'train/*.tar', 'train/{00000..00001}.tar'])
    def test_a_folder_or_a_pattern_finds_them(self, pattern: str, tmp_path: Path) -> None:
        write_shard(tmp_path / 'train' / '00000.tar', samples(range(2)))
        write_shard(tmp_path / 'train' / '00001.tar', samples(range(2, 4)))
        module = CC3M(str(tmp_path / pattern), cache_dir=str(tmp_path / 'cache'))
        assert numbers(module.load_table()) == [0, 1, 2, 3]

    def test_remote_ones_are_copied(self, tmp_path: Path) -> None:
        write_shard(tmp_path / '0.tar', samples(range(3)))
        with serve({'0.tar': (tmp_path / '0.tar').read_bytes()}) as server:
            data = CC3M(f'{server.address}/0.tar', cache_limit='1 MB', cache_dir=str(tmp_path / 'cache'))
            assert numbers(data.load_table()) == [0, 1, 2]

    def test_secrets_in_addresses_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r'^data\.root: the password or query in the address of .https://a\.org/0'):
            CC3M('https://me:word@a.org/0.tar')

    def test_training_and_validation_shards_are_not_mixed(self, tmp_path: Path) -> None:
        for part in ('train', 'validation'):
            write_shard(tmp_path / f'cc3m-{part}-0000.tar', samples(range(2)))
        with pytest.raises(ValueError, match=r'name .cc3m-train-\*\.tar. or .cc3m-validation-\*\.tar.'):
            CC3M(str(tmp_path)).load_table()


class TestSubset:
    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        write_part(tmp_path / '00000', range(12), metadata=True)
        return str(tmp_path)

    def test_keeps_the_order_of_rows(self, root: str) -> None:
        found = numbers(CC3M(root, subset=5).load_table())
        assert len(found) == 5 and found == sorted(found)

    def test_depends_on_its_seed(self, root: str) -> None:
        draws = [tuple(numbers(CC3M(root, subset=5, subset_seed=seed).load_table())) for seed in (0, 0, 1, 2)]
        assert draws[0] == draws[1] and len(set(draws)) > 1

    @pytest.mark.parametrize(('subset', 'count'), [(13, 13), ('CC100K', 100_000), ('CC1M', 1_000_000)])
    def test_a_subset_larger_than_the_data_is_rejected(self, subset: int | str, count: int, root: str) -> None:
        with pytest.raises(ValueError, match=rf'data\.subset={count} must be from 1 to 12'):
            CC3M(root, subset=subset).load_table()


class TestHeldout:
    def test_validation_may_have_another_form_than_the_training_pairs(self, tmp_path: Path) -> None:
        validation = write_list(tmp_path / 'Validation.tsv', PUBLISHED)
        write_picture(tmp_path / 'Validation' / '000000001.jpg', 1)
        heldout = CC3M('unused', validation=validation).load_heldout()
        assert heldout is not None and numbers(heldout) == [1]

    def test_nothing_is_held_out_by_default(self) -> None:
        assert CC3M('unused').load_heldout() is None


class TestBadInput:
    def check_refused(self, place: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message) as error:
            CC3M(str(place)).load_table()
        assert '\n' not in str(error.value) and 'data.root=' in str(error.value)

    def test_a_missing_root_is_rejected(self, tmp_path: Path) -> None:
        self.check_refused(tmp_path / 'absent', r"data\.root='.*absent' does not exist")
        self.check_refused(tmp_path / 'absent.tar', 'shards do not exist')

    def test_an_empty_folder_or_list_is_rejected(self, tmp_path: Path) -> None:
        self.check_refused(tmp_path, r'contains no \.tsv, no \.tar and no folder 00000 with captions')
        (tmp_path / 'Train.tsv').touch()
        self.check_refused(tmp_path, 'is empty')

    def test_several_lists_are_rejected(self, tmp_path: Path) -> None:
        for name in ('Train.tsv', 'Validation.tsv'):
            write_list(tmp_path / name, PUBLISHED)
        self.check_refused(tmp_path, r'several lists: name one, such as .*Train\.tsv')

    def test_a_resource_fork_beside_the_list_is_no_list(self, tmp_path: Path) -> None:
        path = write_list(tmp_path / 'Train.tsv', PUBLISHED)
        (tmp_path / '._Train.tsv').write_bytes(b'\0\5\x16\7')
        write_picture(tmp_path / 'images' / '000000003.jpg', 3)
        assert CC3M(str(tmp_path)).load_table().image == CC3M(path).load_table().image

    def test_a_malformed_line_is_named(self, tmp_path: Path) -> None:
        for content in ('a\tb\tc', 'a'):
            write_list(tmp_path / 'Train.tsv', [content])
            self.check_refused(tmp_path, '1 of 1 rows do not have 2 fields .* line 1')

    def test_a_list_without_images_is_rejected(self, tmp_path: Path) -> None:
        write_list(tmp_path / 'Train.tsv', PUBLISHED)
        self.check_refused(tmp_path, 'contains no image named after its line, such as 000000000.jpg')
        (tmp_path / 'images').mkdir()
        (tmp_path / 'images' / 'holiday.jpg').write_bytes(picture(1))
        self.check_refused(tmp_path, 'contains no image named after its line')

    def test_a_list_that_does_not_match_the_images_is_rejected(self, tmp_path: Path) -> None:
        write_list(tmp_path / 'Train.tsv', PUBLISHED)
        write_picture(tmp_path / 'images' / '000000006.jpg', 6)
        self.check_refused(tmp_path, r'has 6 lines, but .* has an image for line 6 \(counted from 0\)')

    def test_an_index_without_line_numbers_is_rejected(self, tmp_path: Path) -> None:
        write_list(tmp_path / 'Train.tsv', PUBLISHED)
        write_list(tmp_path / 'images' / 'images.tsv', ['0.jpg\tx.jpg'])
        with pytest.raises(ValueError, match=r'images\.tsv.* must have <line><tab><file> in each line'):
            CC3M(str(tmp_path)).load_table()

    def test_a_list_without_captions_is_rejected(self, tmp_path: Path) -> None:
        write_list(tmp_path / 'Train.tsv', [' \tu'])
        write_picture(tmp_path / 'images' / '000000000.jpg', 0)
        self.check_refused(tmp_path, 'has no usable pair')


def test_any_table_of_captions_is_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    write_part(tmp_path / '00000', range(4), metadata=True)
    parquet = tmp_path / '00000.parquet'
    columns = {
        'text': ['a', 'b', None, ''],
        'bytes': [b'a', b'\xff', b'c', b''],
        'numbers': [0, 1, 2, 3],
        'nested': [['a']] * 4,
        'dates': [datetime.date(2020, 1, 1)] * 4,
        'nothing': [None] * 4,
        'keys': [f'{number:09d}' for number in (0, 0, 2, 9)],
    }
    tables = [pa.table({'key': columns[key], 'caption': columns[text]}) for key in columns for text in columns]
    contents = []
    for table in tables:
        pq.write_table(table, parquet)
        contents.append(parquet.read_bytes())
    for content in [*contents, *mutations(contents[-1], 100)]:
        parquet.write_bytes(content)
        try:
            table = CC3M(str(tmp_path), cache_dir=str(tmp_path)).load_table()
        except UsageError as error:
            assert '\n' not in str(error)
        else:
            assert 0 < len(table) <= 4 and all(table.captions(range(len(table))))
