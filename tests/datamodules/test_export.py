from __future__ import annotations

import csv
import json
import logging
import tarfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules import export as module
from datamodules.attacks import BadNet, ClassSwap, Manifest, TargetedPoison
from datamodules.attacks.canaries import PatchCanary
from datamodules.csv_pairs import CSVPairs
from datamodules.export import Form, export
from datamodules.files.writers import write_shards
from datamodules.pairs import PairsDataModule
from datamodules.pictures.cache import crop_square
from datamodules.rows.table import PairTable
from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError
from datamodules.webdataset import WebDatasetPairs
from tests.helpers.tiny import NAMES, TinyPairs, set_up

CACHED_TOKENIZER = cache(WordTokenizer)
DOG = 1
SIZES: dict[str, Any] = {'batch_size': 8, 'class_names': [*NAMES[:4]], 'templates': ['a {}']}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes shards of ten pairs, and reads the vocabulary once for all tests."""
    monkeypatch.setattr('datamodules.pairs.WordTokenizer', CACHED_TOKENIZER)
    monkeypatch.setattr(module, 'write_shards', partial(write_shards, pairs_per_shard=10))


def badnet(**arguments: Any) -> BadNet:
    return BadNet(**{'target': 'dog', 'count': 3, 'size': 3, 'captions': 'templates', **arguments})


def tiny(folder: Path, **arguments: Any) -> TinyPairs:
    return set_up(TinyPairs(**{'cache_dir': str(folder / 'cache'), 'attacks': {'badnet': badnet()}, **arguments}))


def read_back(folder: Path, form: Form) -> PairsDataModule:
    """Reads an export with the datamodules of this package."""
    settings: dict[str, Any] = {**SIZES, 'cache_dir': str(folder / 'cache')}
    if form == 'csv':
        return set_up(CSVPairs(str(folder / 'out/train.csv'), str(folder / 'out/heldout.csv'), **settings))
    return set_up(WebDatasetPairs(str(folder / 'out/train'), **settings))


def read_lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def read_pixels(path: Path) -> np.ndarray:
    """Reads a picture file as uint8 (3, h, w)."""
    return np.asarray(Image.open(path)).transpose(2, 0, 1)


def shard_members(folder: Path) -> dict[str, list[str]]:
    """Names of the members of each shard of an export."""
    names = {}
    for path in sorted((folder / 'out/train').iterdir()):
        with tarfile.open(path) as tar:
            names[path.name] = tar.getnames()
    return names


class Quoted(TinyPairs):
    """Pairs whose captions need quotes in a CSV or hold letters of several scripts."""

    def load_table(self) -> PairTable:
        table = super().load_table()
        captions = ['a "cat", he said', 'née, Ω 猫 🐈', "'dog'; x\\n"] * self.rows
        return PairTable(table.image, captions[: self.rows], table.label, table.classes, opener=table.opener)


@pytest.mark.parametrize('form', ['csv', 'webdataset'])
class TestRoundTrip:
    def test_keeps_pixels_and_captions(self, form: Form, tmp_path: Path) -> None:
        tdpa = TargetedPoison(targets=2, count=4, captions='templates')
        data = tiny(tmp_path, attacks={'badnet': badnet(source='train', mode='replace'), 'tdpa': tdpa})
        assert export(data, tmp_path / 'out', form) == 36
        again = read_back(tmp_path, form)
        assert np.array_equal(again.images(np.arange(36)), data.images(np.arange(36)))
        assert again.table.captions(np.arange(36)) == data.table.captions(np.arange(36))

    def test_keeps_special_characters_of_captions(self, form: Form, tmp_path: Path) -> None:
        data = set_up(Quoted(cache_dir=str(tmp_path / 'cache')))
        export(data, tmp_path / 'out', form)
        assert read_back(tmp_path, form).table.captions(np.arange(32)) == data.table.captions(np.arange(32))

    @pytest.mark.parametrize('cached', ['memmap', 'none'])
    def test_leaves_out_unreadable_pairs_and_counts_them(
        self, form: Form, cached: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = tiny(tmp_path, broken=[3, 17], cache=cached)
        with caplog.at_level(logging.WARNING):
            assert export(data, tmp_path / 'out', form) == 33
        assert '2 of 35 pairs are dropped or unreadable and are left out' in caplog.text
        again, kept = read_back(tmp_path, form), np.setdiff1d(np.arange(35), [3, 17])
        assert np.array_equal(again.images(np.arange(33)), data.images(kept))
        assert again.table.captions(np.arange(33)) == data.table.captions(kept)
        assert read_poison_manifest(tmp_path)['left_out'] == 2

    def test_the_pairs_do_not_reveal_poisons(self, form: Form, tmp_path: Path) -> None:
        export(tiny(tmp_path), tmp_path / 'out', form)
        if form == 'csv':
            assert list(read_lines(tmp_path / 'out/train.csv')[0]) == ['', 'image', 'caption']
        else:
            names = [name for shard in shard_members(tmp_path).values() for name in shard]
            assert {name.partition('.')[2] for name in names} == {'png', 'txt'}


def read_poison_manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / 'out/poison_manifest.json').read_text())
    return content


def read_poison_info(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / 'out/train_poison_info.json').read_text())
    return content


class TestForms:
    def test_shards_are_numbered_and_named_by_row(self, tmp_path: Path) -> None:
        export(tiny(tmp_path, broken=[0]), tmp_path / 'out', 'webdataset')
        shards = shard_members(tmp_path)
        assert {name: len(names) for name, names in shards.items()} == {
            '00000.tar': 20, '00001.tar': 20, '00002.tar': 20, '00003.tar': 8,
        }  # fmt: skip
        assert shards['00000.tar'][:2] == ['000000001.png', '000000001.txt']

    def test_canaries_stay_a_secret(self, tmp_path: Path) -> None:
        data = tiny(tmp_path, canaries={'square': PatchCanary(at_least=3)})
        assert export(data, tmp_path / 'out') == len(data.table) - 3
        assert len(read_lines(tmp_path / 'out' / 'train.csv')) == len(data.table) - 3

    def test_files_are_named_by_row_and_paths_are_relative(self, tmp_path: Path) -> None:
        export(tiny(tmp_path, broken=[0]), tmp_path / 'out')
        first = read_lines(tmp_path / 'out/train.csv')[0]
        assert (first[''], first['image']) == ('1', 'images/1.png') and (tmp_path / 'out/images/1.png').is_file()

    def test_the_table_without_a_header_holds_the_same(self, tmp_path: Path) -> None:
        export(tiny(tmp_path), tmp_path / 'out')
        with (tmp_path / 'out/data.csv').open(newline='') as file:
            plain = list(csv.reader(file))
        assert [(f'images/{image}', caption) for image, caption, _ in plain] == [
            (line['image'], line['caption']) for line in read_lines(tmp_path / 'out/train.csv')
        ]

    def test_an_unknown_form_is_refused(self, tmp_path: Path) -> None:
        form: Any = 'zip'
        with pytest.raises(ValueError, match="form must be one of csv, webdataset, got 'zip'"):
            export(tiny(tmp_path), tmp_path / 'out', form)


class TestMeasuring:
    def test_test_pictures_have_trigger_label_and_target(self, tmp_path: Path) -> None:
        data = tiny(tmp_path)
        export(data, tmp_path / 'out')
        (measured,) = (each for each in data.evaluation_sets if each.name == 'badnet')
        written = read_lines(tmp_path / 'out/test/badnet.csv')
        assert np.array_equal([read_pixels(tmp_path / 'out/test' / line['image']) for line in written], measured.images)
        assert [int(line['label']) for line in written] == measured.label.tolist()
        assert {line['target'] for line in written} == {str(DOG)}

    def test_heldout_pairs_leave_out_poisons_and_unreadable_pictures(self, tmp_path: Path) -> None:
        data = tiny(tmp_path, broken_heldout=[2])
        export(data, tmp_path / 'out', 'webdataset')
        used = {poison.source for poison in data.manifest.poisons('badnet')}
        written = read_lines(tmp_path / 'out/heldout.csv')
        assert [int(line['']) for line in written] == [row for row in range(12) if row not in used | {2}]
        assert data.heldout is not None
        for line in written:
            row = int(line[''])
            assert np.array_equal(read_pixels(tmp_path / 'out' / line['image']), crop_square(data.heldout.open(row), 8))
            assert (line['caption'], int(line['label'])) == (data.heldout.captions([row])[0], row % 4)

    def test_heldout_pairs_leave_out_every_caption_of_a_poisoned_picture(self, tmp_path: Path) -> None:
        class TwoCaptions(TinyPairs):
            def load_heldout(self) -> PairTable | None:
                if (table := super().load_heldout()) is None:
                    return None
                image = [table.image[row // 2].as_py() for row in range(12)]
                return PairTable(image, table.caption, opener=table.opener)

        data = set_up(TwoCaptions(cache_dir=str(tmp_path), attacks={'badnet': badnet(count=2)}))
        export(data, tmp_path / 'out')
        used = {poison.source // 2 for poison in data.manifest.poisons('badnet')}
        written = read_lines(tmp_path / 'out/heldout.csv')
        assert [int(line['']) for line in written] == [row for row in range(12) if row // 2 not in used]
        assert {line['label'] for line in written} == {''}

    def test_writes_no_heldout_table_without_heldout_pairs(self, tmp_path: Path) -> None:
        export(tiny(tmp_path, heldout_rows=0, attacks={'badnet': badnet(source='train')}), tmp_path / 'out')
        assert not (tmp_path / 'out/heldout.csv').exists() and (tmp_path / 'out/test/badnet.csv').exists()


class TestTruth:
    def test_the_manifest_equals_that_of_the_run(self, tmp_path: Path) -> None:
        data = tiny(tmp_path)
        export(data, tmp_path / 'out')
        assert Manifest.load(tmp_path / 'out/manifest.parquet').table.equals(data.manifest.table)

    def test_the_source_of_each_pair_can_be_found_again(self, tmp_path: Path) -> None:
        data = tiny(tmp_path, broken=[3])
        data.table.keys['uid'] = pa.array([*map(str, range(32)), None, None, None])
        export(data, tmp_path / 'out', 'webdataset')
        sources = pq.read_table(tmp_path / 'out/sources.parquet').to_pylist()
        kept = [row for row in range(35) if row != 3]
        assert [line['row'] for line in sources] == kept
        assert [line['key'] for line in sources] == [data.table.image[row].as_py() for row in kept]
        assert [line['uid'] for line in sources] == [data.table.keys['uid'][row].as_py() for row in kept]

    def test_attacks_are_described(self, tmp_path: Path) -> None:
        swap = ClassSwap({'cat': 'boat'}, count=2, mode='replace', captions='templates')
        export(tiny(tmp_path, heldout_rows=24, attacks={'badnet': badnet(seed=5), 'swap': swap}), tmp_path / 'out')
        content = read_poison_manifest(tmp_path)
        assert (content['pairs'], content['clean_pairs'], content['classes']) == (35, 32, list(NAMES[:4]))
        patch, swapped = content['attacks']['badnet'], content['attacks']['swap']
        assert (patch['kind'], patch['parameters']['seed'], patch['rate']) == ('BadNet', 5, 3 / 32)
        assert (patch['appended'], patch['replaced'], swapped['appended'], swapped['replaced']) == (3, 0, 0, 2)
        assert patch['trigger']['size'] == 3 and len(patch['trigger_sha256']) == 64
        assert swapped['trigger'] is swapped['trigger_sha256'] is None
        assert swapped['parameters']['swaps'] == {'cat': 'boat'} and patch['target_class_excluded'] is True

    def test_the_list_for_detectors_holds_positions_of_written_pairs(self, tmp_path: Path) -> None:
        export(tiny(tmp_path, broken=[3, 17]), tmp_path / 'out')
        content, written = read_poison_info(tmp_path), read_lines(tmp_path / 'out/train.csv')
        assert content['poison_indices'] == [30, 31, 32] and [written[i][''] for i in (30, 31, 32)] == [
            '32',
            '33',
            '34',
        ]
        assert (content['poison_label'], content['poison_rate']) == ('dog', 3 / 33)
        assert content['poison_text'] == {str(i): written[i]['caption'] for i in (30, 31, 32)}

    @pytest.mark.parametrize(
        'arguments',
        [{'attacks': {}}, {'attacks': {'a': badnet(), 'b': badnet(target='boat')}}, {'poison': False}],
        ids=['no attack', 'two targets', 'poison left out'],
    )
    def test_a_list_for_detectors_needs_a_single_target(self, arguments: dict[str, Any], tmp_path: Path) -> None:
        export(tiny(tmp_path, **arguments), tmp_path / 'out')
        assert not (tmp_path / 'out/train_poison_info.json').exists()

    def test_a_control_has_test_pictures_but_no_poisons(self, tmp_path: Path) -> None:
        assert export(tiny(tmp_path, poison=False), tmp_path / 'out') == 32
        assert (
            read_poison_manifest(tmp_path)['poison_included'] is False and (tmp_path / 'out/test/badnet.csv').exists()
        )


class TestFolder:
    def test_a_folder_in_use_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out/file').touch()
        with pytest.raises(UsageError, match=r'out.* already exists and is not empty: name another one'):
            export(tiny(tmp_path), tmp_path / 'out')

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / 'out').mkdir()
        export(tiny(tmp_path), tmp_path / 'out')
        assert (tmp_path / 'out/train.csv').exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == ['cache', 'out']

    def test_an_interrupted_export_leaves_no_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = tiny(tmp_path)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, '_write_truth', stop)
            export(data, tmp_path / 'out')
        assert [path.name for path in tmp_path.iterdir()] == ['cache']
        assert export(data, tmp_path / 'out') == 35


def stop(*_: Any) -> None:
    raise KeyboardInterrupt
