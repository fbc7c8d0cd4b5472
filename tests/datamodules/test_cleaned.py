from __future__ import annotations

import csv
import io
import json
import logging
import tarfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from datamodules.attacks import BadNet
from datamodules.cleaned import RECORD, Form, check_form, write_cleaned
from datamodules.csv_pairs import CSVPairs
from datamodules.pairs import PairsDataModule
from datamodules.rows.filters import UIDS, KeyList
from datamodules.rows.partition import DROPPED
from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError
from datamodules.webdataset import WebDatasetPairs
from tests.helpers.natural import natural_pictures
from tests.helpers.published import write_shard
from tests.helpers.tiny import TinyPairs, set_up

CACHED_TOKENIZER = cache(WordTokenizer)
CAPTIONS = ['a "cat", or so', 'two\tdogs', 'été', '1.0', 'a boat']
UIDS_OF = [f'{(7 * row) % 5:016x}{row:016x}' for row in range(5)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads the vocabulary once for all tests."""
    monkeypatch.setattr('datamodules.pairs.WordTokenizer', CACHED_TOKENIZER)


def encoded(row: int, kind: str = 'JPEG') -> bytes:
    file = io.BytesIO()
    Image.fromarray(natural_pictures(5, 16, seed=0)[row].transpose(1, 2, 0)).save(file, kind)
    return file.getvalue()


def settings(folder: Path, drop: list[str], **more: Any) -> dict[str, Any]:
    """A filter that drops some keys, and what all data sets need."""
    (folder / 'drop.txt').write_text('\n'.join(drop))
    filters = {'listed': KeyList(str(folder / 'drop.txt'), 'drop')}
    return {'batch_size': 2, 'filters': filters, 'cache_dir': str(folder / 'cache'), **more}


def csv_pairs(folder: Path, captions: list[str] = CAPTIONS) -> CSVPairs:
    """Five pairs in a CSV, of which pair 1 is dropped, and the picture of pair 2 is damaged."""
    for row in range(5):
        (folder / f'0{row}.jpg').write_bytes(b'' if row == 2 else encoded(row))
    with (folder / 'pairs.csv').open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([('image', 'caption'), *((f'0{row}.jpg', c) for row, c in enumerate(captions))])
    return set_up(CSVPairs(str(folder / 'pairs.csv'), **settings(folder, ['01.jpg'])))


def shards(folder: Path, uids: list[str | None] = [*UIDS_OF]) -> WebDatasetPairs:  # noqa: B006  # not changed
    """The same pairs in a shard, all readable, with uids."""
    members: dict[str, bytes] = {}
    for row, (caption, uid) in enumerate(zip(CAPTIONS, uids, strict=True)):
        members |= {f'{row}.png': encoded(row, 'PNG'), f'{row}.txt': caption.encode()}
        members |= {f'{row}.json': json.dumps({} if uid is None else {'uid': uid}).encode()}
    write_shard(folder / 'shards/00000.tar', members)
    return set_up(WebDatasetPairs(str(folder / 'shards'), **settings(folder, ['1'])))


def clean(data: PairsDataModule, folder: Path, form: Form) -> Path:
    kept = int((data.partition.side != DROPPED).sum())
    assert write_cleaned(data, folder / 'out', form) == kept
    return folder / 'out'


def refusal(data: PairsDataModule, folder: Path, form: Any) -> str:
    with pytest.raises(UsageError) as error:
        write_cleaned(data, folder / 'out', form)
    assert not (folder / 'out').exists()
    return str(error.value)


class TestForms:
    def test_parquet_lists_keys_captions_and_uids(self, tmp_path: Path) -> None:
        lines = pq.read_table(clean(shards(tmp_path), tmp_path, 'parquet') / 'kept.parquet').to_pylist()
        keys, uids = [f'00000.tar:{row}' for row in (0, 2, 3, 4)], [UIDS_OF[row] for row in (0, 2, 3, 4)]
        assert [line['key'] for line in lines] == keys and [line['uid'] for line in lines] == uids
        assert [line['caption'] for line in lines] == ['a "cat", or so', 'été', '1.0', 'a boat']

    def test_parquet_has_no_uids_where_no_pair_has_one(self, tmp_path: Path) -> None:
        lines = pq.read_table(clean(csv_pairs(tmp_path), tmp_path, 'parquet') / 'kept.parquet')
        assert lines.column_names == ['key', 'caption'] and lines['key'].to_pylist() == ['00.jpg', '03.jpg', '04.jpg']

    def test_npy_is_a_subset_file_of_datacomp(self, tmp_path: Path) -> None:
        uids = np.load(clean(shards(tmp_path), tmp_path, 'npy') / 'kept.npy')
        assert uids.dtype == np.dtype('u8,u8') == UIDS
        assert uids.tolist() == sorted((7 * row % 5, row) for row in (0, 2, 3, 4))  # by both halves, in this order
        again = WebDatasetPairs(
            str(tmp_path / 'shards'),
            batch_size=2,
            filters={'kept': KeyList(str(tmp_path / 'out/kept.npy'))},
            cache_dir=str(tmp_path / 'cache'),
        )
        assert np.flatnonzero(set_up(again).filtered).tolist() == [1]

    def test_csv_lists_files_that_any_reader_finds(self, tmp_path: Path) -> None:
        data = csv_pairs(tmp_path)
        file = clean(data, tmp_path, 'csv') / 'kept.tsv'
        again = set_up(CSVPairs(str(file), root=str(tmp_path), batch_size=2, cache_dir=str(tmp_path / 'cache')))
        assert again.table.captions(range(3)) == ['a "cat", or so', '1.0', 'a boat']
        assert np.array_equal(again.images(np.arange(3)), data.images(np.array([0, 3, 4])))
        assert (file.parent / RECORD).is_file() and Path(again.table.image[0].as_py()).is_absolute()

    def test_webdataset_copies_files_as_they_are(self, tmp_path: Path) -> None:
        with tarfile.open(clean(csv_pairs(tmp_path), tmp_path, 'webdataset') / 'train/00000.tar') as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert list(members) == [f'00000000{row}.{extension}' for row in (0, 3, 4) for extension in ('jpg', 'txt')]
        assert members['000000003.jpg'] == encoded(3) and members['000000004.txt'] == b'a boat'

    def test_webdataset_keeps_uids_and_is_read_again(self, tmp_path: Path) -> None:
        data = shards(tmp_path)
        folder = clean(data, tmp_path, 'webdataset') / 'train'
        again = set_up(WebDatasetPairs(str(folder), batch_size=2, cache_dir=str(tmp_path / 'cache')))
        assert again.table.keys['uid'].to_pylist() == [UIDS_OF[row] for row in (0, 2, 3, 4)]
        assert np.array_equal(again.images(np.arange(4)), data.images(np.array([0, 2, 3, 4])))

    def test_a_picture_that_is_gone_when_it_is_copied_is_left_out(self, tmp_path: Path) -> None:
        data = csv_pairs(tmp_path)
        (tmp_path / '03.jpg').unlink()
        assert write_cleaned(data, tmp_path / 'out', 'webdataset') == 2
        assert record(tmp_path / 'out')[3] == ['3', '03.jpg', '1.0', 'unreadable']


def record(folder: Path) -> list[list[str]]:
    with (folder / RECORD).open(newline='', encoding='utf-8') as file:
        return [*csv.reader(file)]


def test_the_record_says_why_each_pair_is_left_out(tmp_path: Path) -> None:
    data = csv_pairs(tmp_path)
    data.filters['again'] = data.filters['listed']
    data.setup('fit')
    assert record(clean(data, tmp_path, 'parquet')) == [
        ['row', 'key', 'caption', 'left_out_by'],
        ['1', '01.jpg', 'two dogs', 'listed (KeyList); again (KeyList)'],
        ['2', '02.jpg', 'été', 'unreadable'],
    ]


def test_warns_of_captions_that_open_clip_takes_for_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = csv_pairs(tmp_path, ['NA', 'None', 'a nan', 'null', 'NA'])
    caplog.set_level(logging.WARNING)
    clean(data, tmp_path, 'csv')
    assert '3 captions, such as NA, are read by open_clip as missing' in caplog.text  # of 0, 3 and 4


class TestRefusals:
    def test_an_unknown_form(self, tmp_path: Path) -> None:
        assert 'form must be one of npy, parquet, csv, webdataset' in refusal(csv_pairs(tmp_path), tmp_path, 'zip')

    def test_pairs_of_attacks_which_are_in_no_file(self, tmp_path: Path) -> None:
        attack = BadNet(target='dog', count=3, size=3, captions='templates')
        data = TinyPairs(cache_dir=str(tmp_path), attacks={'badnet': attack})
        with pytest.raises(
            UsageError, match=r'in no file: set --data.attacks=\{\}, or write them with clipward export'
        ):
            check_form(data, 'parquet')

    def test_a_list_of_pictures_that_have_no_files_of_their_own(self, tmp_path: Path) -> None:
        assert 'these pairs have none of their own: use webdataset' in refusal(shards(tmp_path), tmp_path, 'csv')

    def test_uids_where_some_are_missing_or_none(self, tmp_path: Path) -> None:
        without = [None, *UIDS_OF[1:]]
        assert 'which 1 of 5 pairs do not have' in refusal(shards(tmp_path, without), tmp_path, 'npy')
        assert 'which 5 of 5 pairs do not have' in refusal(csv_pairs(tmp_path), tmp_path, 'npy')
        wrong = ['x' * 32, *UIDS_OF[1:]]
        assert 'a uid is no number of 32 hexadecimal digits' in refusal(shards(tmp_path, wrong), tmp_path, 'npy')

    def test_a_folder_in_use(self, tmp_path: Path) -> None:
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out/thesis.tex').touch()
        with pytest.raises(UsageError, match='already exists and is not empty'):
            write_cleaned(csv_pairs(tmp_path), tmp_path / 'out', 'parquet')


class TestReadersOfOpenClip:
    """The readers of open_clip's trainer on what was written."""

    def test_table(self, tmp_path: Path) -> None:
        data = pytest.importorskip('open_clip_train.data', reason='open_clip_torch[training] is not installed')
        file = clean(csv_pairs(tmp_path), tmp_path, 'csv') / 'kept.tsv'
        pairs = data.CsvDataset(str(file), np.asarray, 'filepath', 'title', tokenizer=lambda captions: captions)
        expected = [(0, 'a "cat", or so'), (3, '1.0'), (4, 'a boat')]
        for (pixels, caption), (row, text) in zip([pairs[i] for i in range(len(pairs))], expected, strict=True):
            with Image.open(tmp_path / f'0{row}.jpg') as image:
                assert caption == text and np.array_equal(pixels, np.asarray(image))

    @pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # webdataset leaves the shard open
    def test_shards(self, tmp_path: Path) -> None:
        data = pytest.importorskip('open_clip_train.data', reason='open_clip_torch[training] is not installed')
        folder = clean(shards(tmp_path), tmp_path, 'webdataset') / 'train'
        options = {'val_data': str(folder / '00000.tar'), 'val_num_samples': 4, 'batch_size': 4, 'workers': 0}
        as_tensor, as_is = (lambda image: torch.from_numpy(np.array(image))), (lambda caption: [caption])
        loader = data.get_wds_dataset(SimpleNamespace(**options), as_tensor, False, tokenizer=as_is).dataloader
        ((images, captions),) = loader
        assert list(captions) == ['a "cat", or so', 'été', '1.0', 'a boat']
        assert np.array_equal(images, natural_pictures(5, 16, seed=0)[[0, 2, 3, 4]].transpose(0, 2, 3, 1))
