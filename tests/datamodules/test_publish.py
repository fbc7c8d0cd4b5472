from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datamodules import publish as module
from datamodules.attacks import BadNet
from datamodules.csv_pairs import CSVPairs
from datamodules.flickr import Flickr8k
from datamodules.named_folders import NamedFolders
from datamodules.pairs import PairsDataModule
from datamodules.pictures.noise_store import NoiseStore
from datamodules.protection import Protection, ProtectionSettings, protect_pairs
from datamodules.publish import publish
from datamodules.rows.filters import RandomSubset
from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError
from lightning_modules.caption_triggers import insert_trigger
from lightning_modules.noise_steps import add_noise
from tests.helpers.picture_files import write_picture
from tests.helpers.published import write_flickr, write_people
from tests.helpers.tiny import TinyPairs, set_up
from tests.lightning_modules.unlearnable_runs import TwoCaptions

CACHED_TOKENIZER = cache(WordTokenizer)
FLICKR = {number: [f'photo {number} , number {k}' for k in range(5)] for number in range(6)}
SPLITS = {'train': [0, 2, 3, 5], 'val': [1], 'test': [4]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads the vocabulary once for all tests."""
    monkeypatch.setattr('datamodules.pairs.WordTokenizer', CACHED_TOKENIZER)


def sizes(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        'batch_size': 4, 'cache_dir': str(folder / 'cache'), 'class_names': ['cat'], 'templates': ['a {}'],
        'image_size': 8, 'context_length': 12, **more,
    }  # fmt: skip


def tiny(folder: Path, kind: type[TinyPairs] = TinyPairs, **more: Any) -> TinyPairs:
    return kind(rows=12, heldout_rows=4, **sizes(folder, **more))


def protect(folder: Path, data: PairsDataModule, **changes: Any) -> Protection:
    """Random noise and random words for some pairs, in the folder ``noise``."""
    settings: dict[str, Any] = {
        'method': 'MEM', 'eps': 8, 'granularity': 'image', 'noise_start': 'random', 'trigger_length': 3,
        'trigger_place': 'random', 'trigger_start': 'random', 'seed': 4, **changes,
    }  # fmt: skip
    protection = protect_pairs(set_up(data), ProtectionSettings(**settings))
    protection.start(folder / 'noise')
    protection.open(folder / 'noise')
    return protection


def trained(protection: Protection) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and tokens of all pairs that a surrogate would be trained on."""
    rows, store = np.flatnonzero(protection.unit >= 0), protection.store
    noise = torch.from_numpy(store.noise(store.unit[rows])).short()
    pictures = add_noise(torch.from_numpy(protection.data.images(rows)), noise)
    parts = protection.tokens[rows], protection.place[rows], store.trigger(rows)
    tokens = insert_trigger(*(torch.from_numpy(part.astype(np.int64)) for part in parts))
    return pictures.numpy(), tokens.numpy()


def is_read_back(again: PairsDataModule, protection: Protection) -> bool:
    pictures, tokens = trained(protection)
    again = set_up(again)
    return np.array_equal(again.images(np.arange(len(again.table))), pictures) and np.array_equal(again.tokens, tokens)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


class TestAsCSV:
    @pytest.mark.parametrize('granularity', ['image', 'class'])
    def test_is_read_back_as_the_tensors_of_the_run(self, granularity: str, tmp_path: Path) -> None:
        protection = protect(tmp_path, tiny(tmp_path), granularity=granularity)
        summary = publish(protection, tmp_path / 'out')
        assert summary['captions_read_back'] == summary['pairs'] == summary['pictures'] == 12
        assert is_read_back(CSVPairs(str(tmp_path / 'out/train.csv'), **sizes(tmp_path)), protection)

    @pytest.mark.parametrize(('granularity', 'pictures'), [('image', 6), ('row', 12)])
    def test_captions_of_a_picture_share_its_file_unless_each_has_its_own_noise(
        self, granularity: str, pictures: int, tmp_path: Path
    ) -> None:
        protection = protect(tmp_path, tiny(tmp_path, TwoCaptions), granularity=granularity)
        assert publish(protection, tmp_path / 'out')['pictures'] == pictures
        assert files(tmp_path / 'out/images') == sorted(f'{row}.png' for row in range(pictures))
        assert is_read_back(CSVPairs(str(tmp_path / 'out/train.csv'), **sizes(tmp_path)), protection)

    def test_a_protected_picture_is_not_published_as_it_is_too(self, tmp_path: Path) -> None:
        data = tiny(tmp_path)
        data.load_heldout = data.load_table  # type: ignore[method-assign]
        protection = protect(tmp_path, data)
        with pytest.raises(UsageError, match=r'12 held-out pairs show them, .* or leave heldout=false'):
            publish(protection, tmp_path / 'out', heldout=True)
        assert not (tmp_path / 'out').exists()

    def test_pairs_that_the_run_left_out_are_not_published(self, tmp_path: Path) -> None:
        protection = protect(tmp_path, tiny(tmp_path, filters={'some': RandomSubset(0.5)}))
        summary = publish(protection, tmp_path / 'out')
        rows = np.flatnonzero(protection.unit >= 0).tolist()
        with (tmp_path / 'out/train.csv').open(newline='') as file:
            assert [int(line['']) for line in csv.DictReader(file)] == rows
        assert 0 < summary['pairs_left_out'] == 12 - len(rows)

    def test_says_what_was_done_to_each_pair(self, tmp_path: Path) -> None:
        protection = protect(tmp_path, tiny(tmp_path, TwoCaptions))
        summary = publish(protection, tmp_path / 'out')
        assert summary == json.loads((tmp_path / 'out/protection.json').read_text())
        lines = pq.read_table(tmp_path / 'out/manifest.parquet').to_pylist()
        pictures = trained(protection)[0].astype(int)
        change = abs(pictures - protection.data.images(np.arange(12)))
        assert [line['max_noise'] for line in lines] == change.max((1, 2, 3)).tolist()
        assert summary['max_noise'] == change.max() == 8 and summary['pictures_above_eps'] == 0
        expected = 10 * np.log10(255**2 / np.square(change).mean((1, 2, 3)))
        assert np.allclose([line['psnr_db'] for line in lines], expected)
        assert summary['psnr_db'] == pytest.approx({'mean': expected[:6].mean(), 'min': expected[:6].min()})
        captions = protection.data.table.captions(np.arange(12))
        assert [line['caption'] for line in lines] == captions
        assert all(line['trigger'] in line['protected_caption'] for line in lines)
        assert lines[7]['image'] == 'images/1.png' and lines[7]['unit'] == lines[1]['unit']
        assert summary['settings']['fingerprint'] == protection.data.table.fingerprint

    @pytest.mark.parametrize('share', [0.3, 0.6])
    def test_a_share_of_the_pictures_is_protected_with_all_their_captions(self, share: float, tmp_path: Path) -> None:
        protection = protect(tmp_path, tiny(tmp_path, TwoCaptions))
        summary = publish(protection, tmp_path / 'out', share=share)
        lines = pq.read_table(tmp_path / 'out/manifest.parquet').to_pylist()
        protected = np.array([line['protected'] for line in lines])
        assert np.array_equal(protected[:6], protected[6:])  # the two captions of each picture
        assert protected[:6].sum() == round(6 * share) == 6 - summary['pictures_unchanged']
        for line in lines:
            is_changed = line['max_noise'] > 0, line['trigger'] != '', line['protected_caption'] != line['caption']
            assert {*is_changed} == {line['protected']}
        again = set_up(CSVPairs(str(tmp_path / 'out/train.csv'), **sizes(tmp_path)))
        shown, clean = again.images(np.arange(12)), protection.data.images(np.arange(12))
        assert np.array_equal((shown != clean).any((1, 2, 3)), protected)

    def test_a_larger_share_has_the_pictures_of_a_smaller_one(self, tmp_path: Path) -> None:
        protection, protected = protect(tmp_path, tiny(tmp_path)), []
        for share in (0.3, 0.6):
            publish(protection, tmp_path / f'{share}', share=share)
            lines = pq.read_table(tmp_path / f'{share}/manifest.parquet', columns=['row', 'protected']).to_pylist()
            protected.append({line['row'] for line in lines if line['protected']})
        assert protected[0] < protected[1]

    def test_without_words_captions_stay(self, tmp_path: Path) -> None:
        protection = protect(tmp_path, tiny(tmp_path), trigger_length=0)
        assert publish(protection, tmp_path / 'out')['captions_changed'] == 0
        assert is_read_back(CSVPairs(str(tmp_path / 'out/train.csv'), **sizes(tmp_path)), protection)


class TestAsFlickr8k:
    def flickr(self, folder: Path, root: str, **more: Any) -> Flickr8k:
        return Flickr8k(str(folder / root), **sizes(folder, **more))

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        write_flickr(tmp_path / 'flickr', FLICKR, 'Flickr8k.token.txt', SPLITS)
        return tmp_path

    @pytest.mark.parametrize(('granularity', 'photos'), [('image', 4), ('row', 20)])
    def test_keeps_its_layout(self, granularity: str, photos: int, root: Path) -> None:
        before = {name: (root / 'flickr' / name).read_bytes() for name in files(root / 'flickr')}
        protection = protect(root, self.flickr(root, 'flickr'), granularity=granularity)
        assert publish(protection, root / 'out')['pictures'] == photos
        assert is_read_back(self.flickr(root, 'out', heldout_split=None), protection)
        assert before == {name: (root / 'flickr' / name).read_bytes() for name in files(root / 'flickr')}
        lists = ['Flickr8k.token.txt', 'Flickr_8k.trainImages.txt', 'manifest.parquet', 'protection.json']
        assert [name for name in files(root / 'out') if '/' not in name] == lists
        if granularity == 'image':
            assert files(root / 'out/Images') == [f'{1000 + n}_ab{n}.png' for n in SPLITS['train']]

    def test_copies_held_out_photos_clean_if_asked(self, root: Path) -> None:
        protection = protect(root, self.flickr(root, 'flickr'))
        publish(protection, root / 'out', heldout=True)
        again = self.flickr(root, 'out')
        assert is_read_back(again, protection)
        clean, copied = (data.pictures.pictures['heldout'] for data in (protection.data, again))
        assert np.array_equal(clean[np.arange(5)], copied[np.arange(5)])
        assert again.heldout is not None and protection.data.heldout is not None
        assert again.heldout.caption.equals(protection.data.heldout.caption)

    def test_held_out_photos_named_as_protected_ones_have_files_of_their_own(self, root: Path) -> None:
        (photo,) = (root / 'flickr').rglob('1001_ab1.jpg')
        photo.rename(photo.with_name('1003_ab3.png'))
        for name in ('Flickr8k.token.txt', 'Flickr_8k.devImages.txt'):
            file = root / 'flickr' / name
            file.write_text(file.read_text().replace('1001_ab1.jpg', '1003_ab3.png'))
        protection = protect(root, self.flickr(root, 'flickr'))
        publish(protection, root / 'out', heldout=True)
        again = self.flickr(root, 'out')
        assert is_read_back(again, protection)
        assert again.heldout is not None and set(again.heldout.image.to_pylist()) == {'1003_ab3_.png'}
        clean, copied = (data.pictures.pictures['heldout'] for data in (protection.data, again))
        assert np.array_equal(clean[np.arange(5)], copied[np.arange(5)])

    def test_held_out_photos_that_a_run_protected_are_a_further_set_of_held_out_pairs(self, root: Path) -> None:
        protection = protect(root, self.flickr(root, 'flickr', split='test', heldout_split=None))
        publish(protection, root / 'out')
        data = set_up(self.flickr(root, 'flickr', retrieval_sets={'protected': str(root / 'out')}))
        assert [*data.heldout_sets] == ['heldout', 'protected']
        (batch,) = data.heldout_dataloader('protected')
        pictures, tokens = trained(protection)
        assert np.array_equal(batch.image, pictures) and np.array_equal(batch.tokens[0], tokens)
        number = data.heldout_sets['protected'].table.image.to_pylist()
        assert number == ['Images/1004_ab4.png'] * 5


class TestFaces:
    def test_people_have_the_names_they_are_given_and_a_photo_of_each_is_held_out(self, tmp_path: Path) -> None:
        write_people(tmp_path / 'people', {'Ada_Bo': 4, 'Zoe_Lind': 3})
        for number, photo in enumerate(sorted((tmp_path / 'people').rglob('*.jpg'))):
            write_picture(photo, number)  # no two alike, else one might be protected and another held out
        names = ['Jane Roe', 'Mary Major']
        data = NamedFolders(str(tmp_path / 'people'), **sizes(tmp_path, class_names=names))
        protection = protect(tmp_path, data)
        assert publish(protection, tmp_path / 'out', heldout=True)['pairs'] == 5
        assert is_read_back(CSVPairs(str(tmp_path / 'out/train.csv'), **sizes(tmp_path)), protection)
        text = (tmp_path / 'out/train.csv').read_text()
        assert text.count('Jane Roe') == 3 and text.count('Mary Major') == 2 and 'Ada' not in text
        for file, labels in {'train': [0, 0, 0, 1, 1], 'heldout': [0, 1]}.items():
            options = sizes(tmp_path, class_names=names)
            table = CSVPairs(str(tmp_path / f'out/{file}.csv'), label_column='label', **options).load_table()
            assert table.label.tolist() == labels and table.classes == tuple(names)


class TestRefused:
    def check_refused(self, message: str, protection: Protection, out: Path) -> None:
        with pytest.raises(UsageError, match=message):
            publish(protection, out)

    def test_a_folder_in_use(self, tmp_path: Path) -> None:
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out/thesis.tex').touch()
        self.check_refused("out='.*out' already exists", protect(tmp_path, tiny(tmp_path)), tmp_path / 'out')

    def test_poisons(self, tmp_path: Path) -> None:
        attack = BadNet(target='dog', count=2, size=3, captions='templates')
        data = TinyPairs(rows=12, heldout_rows=4, **sizes(tmp_path, class_names='imagenet', attacks={'patch': attack}))
        self.check_refused('plants poisons', protect(tmp_path, data), tmp_path / 'out')

    @pytest.mark.parametrize('share', [0, 1.5])
    def test_a_share_out_of_range(self, share: float, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r'share must lie in \(0, 1\]'):
            publish(protect(tmp_path, tiny(tmp_path)), tmp_path / 'out', share=share)

    def test_a_full_disk_before_anything_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        protection = protect(tmp_path, tiny(tmp_path))
        monkeypatch.setattr('datamodules.files.atomic.shutil.disk_usage', lambda _: type('Disk', (), {'free': 10}))
        monkeypatch.setattr(module, '_write_pictures', None)
        self.check_refused(r'out needs 2\d\.\d kB, and its disk has 10 bytes free', protection, tmp_path / 'out')

    def test_noise_above_eps(self, tmp_path: Path) -> None:
        protection = protect(tmp_path, tiny(tmp_path))
        noise = np.load(tmp_path / 'noise/noise_0.npy', mmap_mode='r+')
        noise[3] = 9
        noise.flush()
        self.check_refused('noise of 9 levels, which is above its eps=8', protection, tmp_path / 'out')
        assert files(tmp_path) == [name for name in files(tmp_path) if name.startswith(('noise/', 'cache/'))]

    def test_triggers_that_are_no_words(self, tmp_path: Path) -> None:
        protection = protect(tmp_path, tiny(tmp_path))
        triggers = np.load(tmp_path / 'noise/triggers_0.npy', mmap_mode='r+')
        triggers[3, 0] = 49_407  # the end of a text
        triggers.flush()
        with pytest.raises(UsageError, match='holds triggers that are no words: make it anew'):
            protection.open(tmp_path / 'noise')

    def test_a_store_of_other_rows(self, tmp_path: Path) -> None:
        protect(tmp_path, tiny(tmp_path))
        settings = protect(tmp_path / 'other', tiny(tmp_path)).settings
        fewer = protect_pairs(set_up(tiny(tmp_path, filters={'some': RandomSubset(0.5)})), settings)
        with pytest.raises(UsageError, match='holds noise of other pairs'):
            fewer.open(tmp_path / 'noise')

    def test_a_round_that_is_missing(self, tmp_path: Path) -> None:
        protect(tmp_path, tiny(tmp_path))
        store = NoiseStore.open(tmp_path / 'noise')
        for rounds, said in ((3, '0 of 3'), (-1, '0 of 1')):
            with pytest.raises(UsageError, match=f'holds noise after {said} rounds: let clipward fit go on'):
                store.check_whole(rounds)


def test_what_is_interrupted_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protection = protect(tmp_path, tiny(tmp_path))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, '_protect_caption', stop)  # after the pictures
    with pytest.raises(KeyboardInterrupt):
        publish(protection, tmp_path / 'out')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['cache', 'noise']
