from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.attacks import Attack, Backdoor, BadNet, Blended, Patch, TargetedPoison, WaNetNoise
from datamodules.attacks.canaries import PatchCanary
from datamodules.evaluation.sets import EvalBatch
from datamodules.pairs import PairsDataModule
from datamodules.pictures.augment import CleanView, SimCLRViews, normalize
from datamodules.pictures.batches import CLEAN, PairBatch
from datamodules.pictures.cache import crop_square
from datamodules.pictures.views import clean_view
from datamodules.rows.filters import CleanSubset, PictureFold, RandomSubset
from datamodules.rows.pair_sketch import hash_pairs, share_in
from datamodules.rows.partition import DROPPED, RISKY, SAFE
from datamodules.rows.table import UNKNOWN, PairTable
from datamodules.text.eda import EDA
from datamodules.text.tokenizer import WordTokenizer
from datamodules.toy_pairs import ToyPairs
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from tests.helpers.tiny import (
    CONTEXT_LENGTH,
    IMAGE_SIZE,
    NAMES,
    TinyImages,
    TinyPairs,
    attach,
    set_up,
    tiny_architecture,
    trainer,
)

BOTH = {'cross_modal': 1, 'within_modal': 2}
CACHED_TOKENIZER = cache(WordTokenizer)


@pytest.fixture(autouse=True)
def reuse_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads the vocabulary once, because reading it takes longer than the rest of a setup."""
    monkeypatch.setattr('datamodules.pairs.WordTokenizer', CACHED_TOKENIZER)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / 'cache')


def tiny(folder: str, **kwargs: Any) -> TinyPairs:
    return set_up(TinyPairs(cache_dir=folder, **kwargs))


def badnet(**kwargs: Any) -> BadNet:
    settings = {'target': 'dog', 'count': 3, 'size': 3, 'captions': 'templates'}
    return BadNet(**{**settings, **kwargs})


def attacks_keyed_by_row(target: str, count: int) -> dict[str, Attack]:
    """Attacks whose trigger depends on the row of the image."""
    return {
        'places': BadNet(target, size=4, position='random', count=count),
        'noise': BadNet(target, size=4, pattern='gaussian_wrapped', count=count),
        'fresh noise': Blended(target, 'fresh_noise', count=count),
        'noisy warp': WaNetNoise(target, count=count),
    }


def epoch_batches(data: PairsDataModule, sides: dict[str, int] | None = None, **where: int) -> list[PairBatch]:
    """The batches of an epoch as the model receives them."""
    attach(data, sides, **where)
    return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]


def rows(batches: list[PairBatch]) -> list[int]:
    return torch.cat([batch.row for batch in batches]).tolist()


def pictures_in(folder: str) -> set[str]:
    """Names of the caches of pictures, poisons and hashes."""
    return {path.name for path in Path(folder).glob('pictures-*')}


class EditedCaption(TinyPairs):
    """The same pairs except for the first caption."""

    def load_table(self) -> PairTable:
        table = super().load_table()
        captions = ['edited', *table.captions(range(1, len(table)))]
        return PairTable(table.image, captions, table.label, table.classes, opener=table.opener)


class InvertedPictures(TinyPairs):
    """Other pictures under the same names."""

    def load_table(self) -> PairTable:
        return invert_pictures(super().load_table())

    def load_heldout(self) -> PairTable | None:
        table = super().load_heldout()
        return None if table is None else invert_pictures(table)


def invert_pictures(table: PairTable) -> PairTable:
    table.opener = TinyImages([255 - picture for picture in table.opener.pictures])
    return table


def by_row(batches: list[PairBatch]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Views and tokens of each row."""
    return {
        row: (batch.image[:, position], batch.tokens[:, position])
        for batch in batches
        for position, row in enumerate(batch.row.tolist())
    }


class TestSetup:
    def test_takes_sizes_from_the_model(self, folder: str) -> None:
        data = TinyPairs(cache_dir=folder)
        attach(data)
        data.prepare_data()
        data.setup('fit')
        assert (data.image_size, data.context_length) == (IMAGE_SIZE, CONTEXT_LENGTH)

    def test_sizes_are_required_without_a_model(self, folder: str) -> None:
        with pytest.raises(ValueError, match=r'data.image_size and data.context_length must be set'):
            TinyPairs(cache_dir=folder, image_size=8).prepare_data()

    def test_decodes_every_picture_once_for_all_runs(self, folder: str) -> None:
        data = tiny(folder)
        assert len(data.source.opener.opened) == 32
        again = tiny(folder)
        assert again.source.opener.opened == []
        assert (again.images(np.arange(32)) == data.images(np.arange(32))).all()

    def test_an_edited_caption_keeps_decoded_pictures(self, folder: str) -> None:
        attacks = {'badnet': badnet()}
        tiny(folder, attacks=attacks).picture_hashes()
        files = pictures_in(folder)
        edited = set_up(EditedCaption(cache_dir=folder, attacks=attacks))
        assert edited.picture_hashes() is not None and edited.table.captions([0]) == ['edited']
        assert edited.source.opener.opened == []
        assert len(files) == 4 and pictures_in(folder) == files  # of two tables, poisons and hashes

    def test_a_trigger_whose_code_has_changed_is_put_on_again(self, folder: str) -> None:
        class Changed(Patch):
            def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
                return 255 - super().stamp(images, keys)

        first = tiny(folder, attacks={'patch': Backdoor('dog', Patch(size=2), count=3)})
        Changed.__name__ = 'Patch'
        second = tiny(folder, attacks={'patch': Backdoor('dog', Changed(size=2), count=3)})
        poisons = first.manifest.rows()
        assert first.manifest.digest == second.manifest.digest
        assert (second.images(poisons) == 255 - first.images(poisons)).all()
        assert not np.isin(second.picture_hashes()[poisons], first.picture_hashes()).any()

    def test_other_pictures_with_the_same_names_share_no_cache(self, folder: str) -> None:
        attacks = {'badnet': badnet()}
        first, second = (set_up(kind(cache_dir=folder, attacks=attacks)) for kind in (TinyPairs, InvertedPictures))
        assert list(first.source.image) == list(second.source.image)
        assert (first.images(np.arange(35)) != second.images(np.arange(35))).any((1, 2, 3)).all()
        assert not np.isin(first.picture_hashes(), second.picture_hashes()).any()

    def test_pictures_are_the_same_without_a_cache(self, folder: str) -> None:
        cached, decoded = tiny(folder), tiny(folder, cache='none')
        assert (decoded.images(np.arange(32)) == cached.images(np.arange(32))).all()

    def test_near_copies_can_be_averaged(self, folder: str) -> None:
        plain, averaged = tiny(folder), tiny(folder, average_copies=255)  # all pictures are copies then
        rows = np.arange(len(plain.table))
        mean = np.rint(plain.images(rows).mean(0))
        assert (averaged.images(rows) == mean).all() and not (plain.images(rows) == mean).all()
        assert len({*plain.picture_hashes()}) == len(rows) and len({*averaged.picture_hashes()}) == 1
        assert (averaged.pictures('heldout', rows[:5]) == plain.pictures('heldout', rows[:5])).all()

    def test_tokens_match_the_tokenizer(self, folder: str) -> None:
        data = tiny(folder, attacks={'badnet': badnet()})
        tokenizer = WordTokenizer(CONTEXT_LENGTH)
        expected = [tokenizer(caption).tolist() for caption in data.table.captions(np.arange(35))]
        assert data.tokens.tolist() == expected
        assert data.tokens.dtype == np.uint16

    def test_classes_come_from_held_out_pairs_or_training_pairs(self, folder: str) -> None:
        assert tiny(folder).classes == NAMES[:4]
        assert tiny(folder, heldout_rows=0).classes == NAMES[:4]

    def test_classes_of_unlabeled_data_come_from_class_names(self, folder: str) -> None:
        data = tiny_without_labels(folder, class_names=['left', 'right'])
        assert data.classes == ('left', 'right')
        assert len(tiny_without_labels(folder).classes) == 1000

    def test_words_make_classes_of_captioned_pictures(self, folder: str) -> None:
        class Unlabeled(TinyPairs):
            def load_heldout(self) -> PairTable:
                table = super().load_table()
                return PairTable(table.image, table.caption, opener=table.opener)

        words = [*NAMES[:2]]
        attacks = {'badnet': badnet(target=words[0], source='train')}
        data = set_up(Unlabeled(cache_dir=folder, class_names=words, classes_by_words=True, attacks=attacks))
        clean, attack = data.evaluation_sets
        assert data.classes == clean.classes == attack.classes == NAMES[:2]
        assert (len(clean), sorted({*clean.label.tolist()})) == (16, [0, 1])  # half of the 32 name neither
        assert len(attack) == 8 and {*attack.label.tolist()} == {1}  # as only these have a clean rate

    def test_refuses_classes_by_words_without_held_out_pairs(self, folder: str) -> None:
        with pytest.raises(ValueError, match='classes_by_words needs held-out pairs'):
            tiny(folder, heldout_rows=0, class_names=['left', 'right'], classes_by_words=True)

    @pytest.mark.parametrize(
        ('argument', 'message'),
        [
            ({'classes_by_words': True}, r'classes_by_words needs words: list them as data\.class_names'),
            ({'batch_size': 0}, 'data.batch_size must be at least 1, got 0'),
            ({'safe_weight': 0.0}, 'data.safe_weight must be above 0, got 0.0'),
            ({'image_size': 0}, 'data.image_size must be at least 1, got 0'),
            ({'cache_size': -4}, 'data.cache_size must be at least 1, got -4'),
            ({'eval_batch_size': 0}, 'data.eval_batch_size must be at least 1, got 0'),
            ({'num_workers': -1}, 'data.num_workers must be at least 0, got -1'),
            ({'context_length': 1}, 'data.context_length must be at least 2, got 1'),
            ({'seed': -1}, r'data.seed must lie in \[0, 4294967295\], got -1'),
            ({'safe_weight': float('nan')}, 'data.safe_weight must be above 0, got nan'),
            ({'average_copies': 0}, r'data.average_copies must lie in \[1, 255\], got 0'),
            ({'average_copies': 16, 'cache': 'none'}, 'data.average_copies compares pictures that are stored: set'),
        ],
    )
    def test_refuses_arguments_out_of_range(self, argument: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TinyPairs(**argument)

    def test_refuses_a_batch_larger_than_the_data(self, folder: str) -> None:
        with pytest.raises(ValueError, match=r'data.batch_size=33 is larger than the 32 usable pairs: lower it'):
            tiny(folder, batch_size=33)
        assert tiny(folder, batch_size=32).steps_per_epoch == 1

    def test_refuses_a_single_pair(self, folder: str) -> None:
        with pytest.raises(UsageError, match='the data has 1 to train on: give it at least 2'):
            tiny(folder, rows=1, batch_size=2)

    def test_refuses_a_retrieval_set_whose_pictures_are_gone(self, folder: str, tmp_path: Path) -> None:
        columns = {'image': ['images/0.png'], 'source': ['0.jpg'], 'protected_caption': ['a cat']}
        pq.write_table(pa.table(columns), tmp_path / 'manifest.parquet')
        with pytest.raises(UsageError, match=r'data.retrieval_sets.mem=.*: none of its 1 pictures can be read'):
            tiny(folder, retrieval_sets={'mem': str(tmp_path)})

    def test_dropped_pairs_do_not_count_towards_a_batch(self, folder: str) -> None:
        with pytest.raises(ValueError, match='larger than the 31 usable pairs'):
            tiny(folder, batch_size=32, broken=[5])

    def test_refuses_a_batch_size_that_the_ranks_do_not_divide(self, folder: str) -> None:
        data = TinyPairs(cache_dir=folder)
        attach(data, world=3)
        data.prepare_data()
        with pytest.raises(ValueError, match=r'data.batch_size=8 must be a multiple of the 3 processes'):
            data.setup('fit')

    def test_refuses_a_batch_without_two_pairs_to_compare(self, folder: str) -> None:
        with pytest.raises(ValueError, match=r'data.batch_size=1 leaves a process fewer than 2 pairs.* at least 2\.'):
            tiny(folder, batch_size=1)

    @pytest.mark.parametrize(('size', 'unit'), [('context_length', 'tokens'), ('image_size', 'pixels')])
    def test_refuses_other_sizes_than_those_of_the_model(self, folder: str, size: str, unit: str) -> None:
        data = TinyPairs(cache_dir=folder, **{size: 9})
        attach(data)
        with pytest.raises(ValueError, match=rf'data.{size}=9 is not the 8 {unit} .*: leave it null'):
            data.prepare_data()

    def test_counts_cut_captions_with_new_and_with_cached_tokens(
        self, folder: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            caplog.clear()
            data = tiny(folder, context_length=4)
            lengths = [2 + len(caption.split()) for caption in data.table.captions(range(32))]  # with start and end
            cut = sum(length > 4 for length in lengths)
            assert 0 < cut < sum(length >= 4 for length in lengths)  # some just fit
            (line,) = caplog.messages
            assert line.startswith(f'{cut} of 32 captions have more than data.context_length=4 tokens and are cut')


def tiny_without_labels(folder: str, **kwargs: Any) -> PairsDataModule:
    class Unlabeled(TinyPairs):
        def load_table(self) -> PairTable:
            table = super().load_table()
            return PairTable(table.image, table.caption, opener=table.opener)

    return set_up(Unlabeled(heldout_rows=0, cache_dir=folder, **kwargs))


class TestUnreadable:
    def test_unreadable_pairs_are_dropped_and_never_drawn(self, folder: str) -> None:
        data = tiny(folder, broken=[3, 17])
        assert data.partition.rows(DROPPED).tolist() == [3, 17]
        assert data.steps_per_epoch == 3
        for sides in ({'cross_modal': 1}, {'within_modal': 2}, BOTH):
            for epoch in range(3):
                assert not {3, 17} & set(rows(epoch_batches(data, sides, epoch=epoch)))
        assert not {3, 17} & set(rows(list(data.sweep_dataloader())))

    def test_unreadable_pictures_are_not_poisoned(self, folder: str) -> None:
        attack = badnet(count=3, source='train')
        data = tiny(folder, rows=12, heldout_rows=0, batch_size=4, broken=range(7), attacks={'badnet': attack})
        assert set(data.manifest.table['source'].to_pylist()) <= set(range(7, 12))

    def test_unreadable_held_out_pictures_do_not_count(self, folder: str) -> None:
        (clean,) = tiny(folder, broken_heldout=[2, 5]).evaluation_sets
        assert np.flatnonzero(clean.label == UNKNOWN).tolist() == [2, 5]


class TestPoison:
    def test_poisons_show_their_source_with_the_trigger(self, folder: str) -> None:
        tdpa = TargetedPoison(targets=2, count=4, captions='templates')
        data = tiny(folder, attacks={'badnet': badnet(), 'tdpa': tdpa})
        assert len(data.table) == len(data.partition) == 39
        for name in data.manifest.attacks:
            for row, poison in zip(data.manifest.rows(name), data.manifest.poisons(name), strict=True):
                assert data.heldout is not None
                clean = crop_square(data.heldout.open(poison.source), IMAGE_SIZE)[None]
                trigger = data.attacks[name].trigger
                expected = clean if trigger is None else trigger(clean, [row])
                assert (data.images(np.array([row])) == expected).all()
                assert data.table.captions([row]) == [poison.caption]

    def test_poisons_are_the_same_on_every_rank(self, tmp_path: Path) -> None:
        ranks = [
            TinyPairs(cache_dir=str(tmp_path / str(rank)), attacks=attacks_keyed_by_row('dog', 2)) for rank in range(2)
        ]
        for rank, data in enumerate(ranks):  # each renders its own poisons, because they share no cache
            attach(data, rank=rank, world=2)
            torch.manual_seed(rank)
            set_up(data)
        first, second = ranks
        poisons = first.manifest.rows()
        assert len(poisons) == 8 and first.manifest.digest == second.manifest.digest
        assert first.images(poisons).tobytes() == second.images(poisons).tobytes()

    def test_clean_rows_keep_pictures_and_captions(self, folder: str) -> None:
        clean, poisoned = tiny(folder), tiny(folder, attacks={'badnet': badnet()})
        assert (poisoned.images(np.arange(32)) == clean.images(np.arange(32))).all()
        assert poisoned.table.captions(range(32)) == clean.table.captions(range(32))

    def test_replaced_rows_show_the_poison(self, folder: str) -> None:
        data = tiny(folder, attacks={'badnet': badnet(mode='replace', source='train')})
        assert len(data.table) == 32
        assert data.attacks['badnet'].trigger is not None
        for row in data.manifest.rows():
            clean = crop_square(data.source.open(int(row)), IMAGE_SIZE)[None]
            assert (data.images(np.array([row])) == data.attacks['badnet'].trigger(clean)).all()

    def test_other_held_out_pictures_give_other_poisons(self, folder: str) -> None:
        class OtherHeldout(TinyPairs):
            def load_heldout(self) -> PairTable | None:
                self.picture_seed += 1
                return super().load_heldout()

        first = tiny(folder, attacks={'badnet': badnet()})
        second = set_up(OtherHeldout(cache_dir=folder, attacks={'badnet': badnet()}))
        assert first.manifest.digest == second.manifest.digest
        appended = np.arange(32, 35)
        assert not (first.images(appended) == second.images(appended)).all((1, 2, 3)).any()

    def test_attacks_are_measured_without_training_on_poisons(self, folder: str) -> None:
        data = tiny(folder, attacks={'badnet': badnet()}, poison=False, broken=[4])
        assert data.partition.rows(DROPPED).tolist() == [4, 32, 33, 34]
        assert [s.name for s in data.evaluation_sets] == ['heldout', 'badnet']
        assert set(rows(epoch_batches(data))) < set(range(32)) - {4}

    def test_an_attack_that_is_null_is_skipped(self, folder: str) -> None:
        data = tiny(folder, attacks={'badnet': None})
        assert len(data.table) == 32
        assert data.manifest.attacks == ()

    def test_evaluation_sets_are_the_clean_one_and_one_per_attack(self, folder: str) -> None:
        attacks = {'badnet': badnet(), 'tdpa': TargetedPoison(targets=2, count=4, captions='templates')}
        sets = tiny(folder, attacks=attacks, heldout_name='val').evaluation_sets
        assert [(s.name, s.kind) for s in sets] == [('val', 'zero_shot'), ('badnet', 'asr'), ('tdpa', 'asr')]

    def test_held_out_images_used_as_poisons_do_not_count(self, folder: str) -> None:
        data = tiny(folder, attacks={'badnet': badnet()})
        sources = sorted(data.manifest.table['source'].to_pylist())
        assert np.flatnonzero(data.evaluation_sets[0].label == UNKNOWN).tolist() == sources


class TestTraining:
    def test_an_epoch_has_full_batches_of_distinct_pairs(self, folder: str) -> None:
        data = tiny(folder, rows=35)
        batches = epoch_batches(data)
        assert [len(batch.row) for batch in batches] == [8] * 4 == [8] * data.steps_per_epoch
        assert max(Counter(rows(batches)).values()) == 1

    def test_batches_hold_views_and_tokens_of_their_rows(self, folder: str) -> None:
        data = tiny(folder)
        for batch in epoch_batches(data, {'cross_modal': 2}):
            assert batch.image.shape == (2, 8, 3, IMAGE_SIZE, IMAGE_SIZE)
            assert batch.image.dtype == torch.float32
            pictures = torch.from_numpy(data.images(batch.row.numpy()))
            assert torch.allclose(batch.image[0], normalize(pictures.float() / 255))
            assert batch.tokens[1].tolist() == data.tokens[batch.row.numpy()].tolist()

    def test_views_depend_on_seed_epoch_row_and_view(self, folder: str) -> None:
        views = SimCLRViews()
        data = tiny(folder, image_views=views, seed=5)
        for batch in epoch_batches(data, {'within_modal': 2}, epoch=3):
            pictures = torch.from_numpy(data.images(batch.row.numpy()))
            for view in range(2):
                expected = views(pictures, batch.row, IMAGE_SIZE, seed=5, epoch=3, view=view)
                assert torch.allclose(batch.image[view], normalize(expected), atol=1e-5)

    def test_epochs_differ_and_are_reproducible(self, folder: str) -> None:
        data = tiny(folder)
        first, second = rows(epoch_batches(data, epoch=0)), rows(epoch_batches(data, epoch=1))
        assert first != second
        assert rows(epoch_batches(data, epoch=0)) == first

    def test_each_side_gets_batches_by_its_share(self, folder: str) -> None:
        data = tiny(folder)
        data.partition.side[:24] = RISKY
        batches = epoch_batches(data, BOTH)
        assert sorted(batch.cross_modal for batch in batches) == [0, 0, 0, 8]
        for batch in batches:
            assert (data.partition.side[batch.row] == (SAFE if batch.cross_modal else RISKY)).all()
            assert len(batch.image) == len(batch.tokens) == (1 if batch.cross_modal else 2)

    @pytest.mark.parametrize(('sides', 'safe'), [({'cross_modal': 1}, 8), ({'within_modal': 2}, 0)])
    def test_a_single_side_takes_every_pair(self, folder: str, sides: dict[str, int], safe: int) -> None:
        data = tiny(folder)
        data.partition.side[:24] = RISKY
        batches = epoch_batches(data, sides)
        assert {batch.cross_modal for batch in batches} == {safe}
        assert sorted(rows(batches)) == list(range(32))

    def test_a_side_without_views_is_skipped(self, folder: str) -> None:
        data = tiny(folder)
        data.partition.side[:20] = RISKY
        batches = epoch_batches(data, {'cross_modal': 1, 'within_modal': 0})
        assert set(rows(batches)) == set(range(20, 32))
        assert len(batches) == 4

    def test_number_of_steps_does_not_depend_on_the_split(self, folder: str) -> None:
        data = tiny(folder)
        for risky in (0, 1, 16, 31, 32):
            data.partition.side[:] = SAFE
            data.partition.side[:risky] = RISKY
            assert len(epoch_batches(data, BOTH)) == 4

    def test_refuses_an_epoch_without_pairs(self, folder: str) -> None:
        data = tiny(folder)
        data.partition.side[:] = RISKY
        with pytest.raises(ValueError, match=r'lower callbacks.repartition.threshold or set min_fraction'):
            epoch_batches(data, {'cross_modal': 1, 'within_modal': 0})

    def test_order_and_weight_reach_the_sampler(self, folder: str) -> None:
        data = tiny(folder, order='sequential', safe_weight=3.0)
        data.partition.side[:16] = RISKY
        assert [batch.cross_modal for batch in epoch_batches(data, BOTH)] == [0, 8, 8, 8]

    @pytest.mark.parametrize('order', ['interleaved', 'joint'])
    def test_ranks_share_the_views_of_one_process(self, folder: str, order: str) -> None:
        data = tiny(folder, image_views=SimCLRViews(), caption_views=EDA(operations=['swap', 'deletion']), order=order)
        data.partition.side[:16] = RISKY
        whole = by_row(epoch_batches(data, {'cross_modal': 2, 'within_modal': 2}))
        views_of_ranks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for rank in range(2):
            part = by_row(epoch_batches(data, {'cross_modal': 2, 'within_modal': 2}, rank=rank, world=2))
            assert not views_of_ranks.keys() & part.keys()
            views_of_ranks |= part
        assert views_of_ranks.keys() == whole.keys() == set(range(32))
        for row, (image, tokens) in whole.items():
            assert torch.allclose(views_of_ranks[row][0], image, atol=1e-5)
            assert torch.equal(views_of_ranks[row][1], tokens)


@pytest.mark.parametrize('storage', ['memmap', 'none'])
def test_workers_do_not_change_a_batch(folder: str, storage: str) -> None:
    def batches(workers: int) -> list[PairBatch]:
        data = ToyPairs(
            rows=48, heldout_rows=24, scene_size=16, cache_dir=f'{folder}/{workers}', cache=storage,
            num_workers=workers, batch_size=12, image_size=16, context_length=20,
            image_views=SimCLRViews(), caption_views=EDA(),
            attacks={'badnet': BadNet('striped star', size=4, count=3), **attacks_keyed_by_row('striped star', 3)},
        )  # fmt: skip
        torch.manual_seed(workers)  # batches must not depend on the global generator
        data.prepare_data()
        data.setup('fit')
        data.partition.side[::3] = RISKY
        return [*epoch_batches(data, BOTH, epoch=2), *data.sweep_dataloader()]  # the latter reads every poison

    for alone, shared in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone.image, shared.image)
        assert torch.equal(alone.tokens, shared.tokens)
        assert torch.equal(alone.row, shared.row)
        assert (alone.cross_modal, alone.epoch) == (shared.cross_modal, shared.epoch)


def test_loading_does_not_use_the_global_generator(folder: str) -> None:
    data = tiny(folder, image_views=SimCLRViews(), caption_views=EDA())
    attach(data, BOTH)
    state = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.sweep_dataloader()):
        for batch in loader:
            data.on_after_batch_transfer(batch, 0)
    assert torch.equal(torch.get_rng_state(), state)


class TestSweep:
    @pytest.mark.parametrize('world', [1, 2, 3, 4])
    @pytest.mark.parametrize('usable', [10, 3, 1])
    def test_reads_every_pair_once_over_all_ranks(self, folder: str, world: int, usable: int) -> None:
        data = tiny(folder, rows=10, batch_size=4, eval_batch_size=2)
        data.partition.side[usable:] = DROPPED
        read: list[int] = []
        for rank in range(world):
            attach(data, rank=rank, world=world)
            read += [row for batch in data.sweep_dataloader() for row in batch.row.tolist()]
        assert sorted(read) == list(range(usable))

    def test_reads_pairs_without_augmentation(self, folder: str) -> None:
        data = tiny(folder, image_views=SimCLRViews(), caption_views=EDA())
        for raw in data.sweep_dataloader():
            batch = data.on_after_batch_transfer(raw, 0)
            assert batch.epoch == CLEAN
            pictures = torch.from_numpy(data.images(batch.row.numpy()))
            assert torch.allclose(batch.image[0], normalize(pictures.float() / 255))
            assert batch.tokens[0].tolist() == data.tokens[batch.row.numpy()].tolist()

    @pytest.mark.parametrize('views', [1, 2])
    def test_can_read_the_first_views_of_an_epoch(self, folder: str, views: int) -> None:
        data = tiny(folder, image_views=SimCLRViews(), caption_views=EDA(operations=['swap', 'deletion']))
        trained = by_row(epoch_batches(data, {'within_modal': 2}, epoch=4))
        loader = data.sweep_dataloader(epoch=4, views=views)
        swept = by_row([data.on_after_batch_transfer(batch, 0) for batch in loader])
        assert swept.keys() == trained.keys()
        for row, (image, tokens) in swept.items():
            assert torch.allclose(image, trained[row][0][:views], atol=1e-5)
            assert torch.equal(tokens, trained[row][1][:views])

    def test_can_read_only_some_rows(self, folder: str) -> None:
        data = tiny(folder)
        assert rows(list(data.sweep_dataloader(rows=np.array([3, 8, 30])))) == [3, 8, 30]

    def test_predict_reads_the_same_pairs(self, folder: str) -> None:
        data = tiny(folder)
        assert rows(list(data.predict_dataloader())) == rows(list(data.sweep_dataloader())) == list(range(32))


class TestEvaluation:
    def test_each_set_has_a_loader_in_the_same_order(self, folder: str) -> None:
        data = tiny(folder, attacks={'badnet': badnet()})
        for source, loader in zip(data.evaluation_sets, data.val_dataloader(), strict=True):
            batches: list[EvalBatch] = list(loader)
            assert torch.cat([batch.label for batch in batches]).tolist() == source.label.tolist()
            views = [data.on_after_batch_transfer(batch, 0).image for batch in batches]
            expected = normalize(torch.from_numpy(np.array(source.images)).float() / 255)
            assert torch.allclose(torch.cat(views), expected)

    @pytest.mark.parametrize('stored', [IMAGE_SIZE, 2 * IMAGE_SIZE])
    def test_views_show_the_patch_in_its_place_and_the_picture_elsewhere(self, folder: str, stored: int) -> None:
        def views(amplitude: float) -> torch.Tensor:
            patch = Patch(stored // 2, 'solid', amplitude=amplitude)
            data = tiny(folder, cache_size=stored, attacks={'patch': Backdoor('dog', patch, count=3)})
            (batch,) = data.val_dataloader()[1]
            return data.on_after_batch_transfer(batch, 0).image

        triggered, plain = views(1.0), views(0.0)
        half = IMAGE_SIZE // 2
        white = normalize(torch.ones(3, 1, 1))
        assert torch.allclose(triggered[..., half + 1 :, half + 1 :], white)
        elsewhere = torch.ones(IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
        elsewhere[half - 1 :, half - 1 :] = False  # resizing mixes the pixels at its edge
        assert torch.equal(triggered[..., elsewhere], plain[..., elsewhere])

    def test_prompts_fill_every_template_with_every_class(self, folder: str) -> None:
        data = tiny(folder)
        (tokens,) = data.prompt_tokens()
        assert tokens.shape == (4, 2, CONTEXT_LENGTH)
        assert tokens[1, 0].tolist() == WordTokenizer(CONTEXT_LENGTH)('a dog').tolist()

    def test_larger_stored_pictures_are_resized(self, folder: str) -> None:
        data = tiny(folder, cache_size=12, image_size=8)
        raw = next(iter(data.sweep_dataloader()))
        assert raw.image.shape[-1] == 12
        assert data.on_after_batch_transfer(raw, 0).image.shape[-1] == 8
        evaluated = next(iter(data.val_dataloader()[0]))
        assert data.on_after_batch_transfer(evaluated, 0).image.shape[-1] == 8

    def test_unlabeled_held_out_pairs_are_not_an_evaluation_set(self, folder: str) -> None:
        assert tiny(folder, heldout_rows=0).evaluation_sets == []


class TestResume:
    def test_state_can_be_loaded_with_weights_only(self, folder: str, tmp_path: Path) -> None:
        data, resumed = tiny(folder, attacks={'badnet': badnet()}), tiny(folder, attacks={'badnet': badnet()})
        data.partition.side[:5] = RISKY
        torch.save(data.state_dict(), tmp_path / 'state')
        attach(resumed)
        resumed.load_state_dict(torch.load(tmp_path / 'state', weights_only=True))
        assert torch.equal(resumed.partition.side, data.partition.side)

    def test_state_knows_the_pairs_that_were_trained_on(self, folder: str) -> None:
        whole = tiny(folder, attacks={'badnet': badnet()})
        half = tiny(folder, attacks={'badnet': badnet()}, filters={'half': RandomSubset(0.5)}, poison=False)
        trained = half.partition.side.numpy() != DROPPED
        hashes = hash_pairs(whole.table)
        assert share_in([whole.state_dict()['trained_pairs']], hashes) == 1
        known = half.state_dict()['trained_pairs']
        assert share_in([known], hashes[trained]) == 1 and share_in([known], hashes[half.manifest.rows()]) == 0

    def test_refuses_other_pairs(self, folder: str) -> None:
        data = tiny(folder, rows=24)
        attach(data)
        with pytest.raises(ValueError, match=r'partition of 32 pairs .* the data has 24'):
            data.load_state_dict(tiny(folder).state_dict())

    def test_refuses_another_trigger(self, folder: str) -> None:
        data = tiny(folder, attacks={'badnet': badnet(size=4)})
        attach(data)
        with pytest.raises(ValueError, match=r'trained on other poisons than data.attacks makes'):
            data.load_state_dict(tiny(folder, attacks={'badnet': badnet(size=3)}).state_dict())

    def test_refuses_to_leave_out_poisons_that_were_epoch_batches(self, folder: str) -> None:
        data = tiny(folder, attacks={'badnet': badnet()}, poison=False)
        attach(data)
        with pytest.raises(ValueError, match=r'with the attacks and data.poison of that run'):
            data.load_state_dict(tiny(folder, attacks={'badnet': badnet()}).state_dict())

    def test_only_training_checks_the_state(self, folder: str) -> None:
        data = tiny(folder, rows=24)
        attach(data)
        data.trainer.state.fn = 'predict'
        data.load_state_dict(tiny(folder).state_dict())
        assert len(data.partition) == 24


class TestFilters:
    def test_dropped_pairs_are_not_trained_on_and_shorten_the_epoch(self, folder: Path) -> None:
        data = tiny(folder, filters={'half': RandomSubset(0.5)})
        rows = np.concatenate([batch.row.numpy() for batch in epoch_batches(data, {'cross_modal': 1})])
        assert data.steps_per_epoch == 2
        assert {*rows.tolist()} == {*np.flatnonzero(data.partition.side.numpy() != DROPPED).tolist()}
        assert len({*rows.tolist()}) == 16

    def test_attacks_choose_before_filters_drop(self, folder: Path) -> None:
        attacks = {'badnet': BadNet('dog', count=4, size=2, captions='templates')}
        plain, filtered = (
            tiny(folder, attacks=attacks, **more) for more in ({}, {'filters': {'f': RandomSubset(0.5)}})
        )
        assert filtered.manifest.table.equals(plain.manifest.table)

    def test_a_fold_of_pictures_holds_all_copies_of_a_picture(self, folder: Path) -> None:
        attacks = {'tdpa': TargetedPoison(targets=2, count=8, captions='templates')}
        data = tiny(folder, attacks=attacks, filters={'half': PictureFold(0)})
        hashes, kept = data.picture_hashes(), ~data.filtered
        assert 0 < kept.sum() < len(kept) and len({*hashes.tolist()}) < len(hashes)
        assert not {*hashes[kept].tolist()} & {*hashes[~kept].tolist()}

    def test_null_removes_a_filter(self, folder: Path) -> None:
        assert tiny(folder, filters={'half': None}).steps_per_epoch == 4

    def test_refuses_to_resume_with_other_filters(self, folder: Path) -> None:
        state = tiny(folder, filters={'half': RandomSubset(0.5)}).state_dict()
        other, same = (tiny(folder, filters={'half': RandomSubset(0.5, seed)}) for seed in (1, 0))
        for data in (other, same):
            attach(data)
        same.load_state_dict(state)
        with pytest.raises(UsageError, match=r'other pairs than data.filters keep'):
            other.load_state_dict(state)


WARM_UP = {'trusted': 1, 'within_modal': 2}


class TestTrustedPairs:
    def test_are_trained_across_modalities_while_all_are_trained_within(self, folder: Path) -> None:
        data = tiny(folder, trusted=CleanSubset(3))
        batches = epoch_batches(data, WARM_UP)
        across = [batch for batch in batches if batch.cross_modal]
        within = [batch for batch in batches if not batch.cross_modal]
        assert len(batches) == data.steps_per_epoch == 4 and len(across) == 1
        assert {*rows(across)} == {*data.trusted_rows.tolist()} and len(rows(across)) == 8  # drawn again and again
        assert len({*rows(within)}) == 24
        assert [len(batch.image) for batch in across + within] == [1, 2, 2, 2]  # views

    def test_are_drawn_as_often_as_a_safe_pair(self, folder: Path) -> None:
        data = tiny(folder, trusted=CleanSubset(4), safe_weight=8.0)
        assert [batch.cross_modal for batch in epoch_batches(data, WARM_UP)].count(8) == 2  # 32 to 32

    def test_may_share_batches_with_the_others(self, folder: Path) -> None:
        data = tiny(folder, trusted=CleanSubset(8), order='joint')
        batches = epoch_batches(data, WARM_UP)
        assert [batch.cross_modal for batch in batches] == [2] * 4
        assert all({*batch.row[:2].tolist()} <= {*data.trusted_rows.tolist()} for batch in batches)

    def test_none_of_them_changes_no_batch(self, folder: Path) -> None:
        for one, other in zip(
            epoch_batches(tiny(folder), WARM_UP), epoch_batches(tiny(folder), {'within_modal': 2}), strict=True
        ):
            assert torch.equal(one.row, other.row) and torch.equal(one.image, other.image)

    def test_are_among_those_that_are_trained_on(self, folder: Path) -> None:
        data = tiny(folder, trusted=RandomSubset(1.0), filters={'half': RandomSubset(0.5)}, broken=[3])
        assert data.trusted_rows.tolist() == np.flatnonzero(data.partition.side.numpy() != DROPPED).tolist()
        canary = {'square': PatchCanary(at_least=5)}
        planted = tiny(folder, trusted=CleanSubset(32), canaries=canary)  # canaries are poisons, too
        assert planted.trusted_rows.tolist() == list(range(32)) and len(planted.table) == 37

    def test_must_not_be_poisoned(self, folder: Path) -> None:
        poisoned = {'attacks': {'badnet': badnet(mode='append')}, 'trusted': RandomSubset(1.0)}
        message = r'^3 of the 35 pairs of data.trusted are poisons of data.attacks, first row 32: use a rule'
        with pytest.raises(UsageError, match=message):
            tiny(folder, **poisoned)
        assert len(tiny(folder, **poisoned, poison=False).trusted_rows) == 32
        assert len(tiny(folder, **poisoned, clean_only=False).trusted_rows) == 35

    def test_are_of_no_use_to_a_model_that_trains_all_pairs_alike(self, folder: Path, tmp_path: Path) -> None:
        model = CLIP(architecture=tiny_architecture(tmp_path))
        data = TinyPairs(trusted=CleanSubset(3), cache_dir=folder)
        with pytest.raises(UsageError, match=r'^data.trusted has no effect on CLIP, which .*: use SafeCLIP, or'):
            trainer(max_epochs=1).fit(model, data)
        data.setup('test')  # of what SafeCLIP has trained
        assert not len(data.trusted_rows)

    def test_must_be_those_of_the_run_that_is_resumed(self, folder: Path) -> None:
        state = tiny(folder, trusted=CleanSubset(3)).state_dict()
        other, same = (tiny(folder, trusted=CleanSubset(3, seed)) for seed in (1, 0))
        none = tiny(folder)
        for data in (other, same, none):
            attach(data)
        same.load_state_dict(state)
        for data in (other, none):
            with pytest.raises(UsageError, match=r'with other trusted pairs than data.trusted keeps: resume with'):
                data.load_state_dict(state)


class TestHeldoutPairs:
    def test_leave_out_poisons_and_unreadable_pictures(self, folder: Path) -> None:
        data = tiny(folder, broken_heldout=[2, 5], attacks={'badnet': badnet()})
        poisoned = [poison.source for poison in data.manifest.poisons('badnet')]
        attach(data)
        (batch,) = (data.on_after_batch_transfer(batch, 0) for batch in data.heldout_dataloader())
        assert data.heldout is not None
        assert batch.row.tolist() == sorted({*range(len(data.heldout))} - {2, 5, *poisoned})
        captions = [data.tokenizer(caption) for caption in data.heldout.captions(batch.row.numpy())]
        np.testing.assert_array_equal(batch.tokens[0], captions)
        stored = torch.from_numpy(data.pictures('heldout', batch.row.numpy()))
        assert torch.equal(batch.image[0], clean_view(stored, IMAGE_SIZE))

    def test_are_split_among_the_processes(self, folder: Path) -> None:
        data, read = tiny(folder, eval_batch_size=5), []
        for rank in range(2):
            attach(data, rank=rank, world=2)
            read.append([batch.row.tolist() for batch in data.heldout_dataloader()])
        assert read == [[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]]

    def test_are_required(self, folder: Path) -> None:
        with pytest.raises(UsageError, match=r'no held-out pairs'):
            tiny(folder, heldout_rows=0).heldout_dataloader()


def test_a_list_of_image_views_needs_one_for_each_view(folder: Path) -> None:
    data = tiny(folder, image_views=[CleanView(), SimCLRViews()])
    with pytest.raises(UsageError, match=r'data.image_views has 2 entries, but some epochs train on 1 view: '):
        epoch_batches(data, {'cross_modal': 1})
    for batch in epoch_batches(data, {'cross_modal': 2}):
        assert not torch.equal(batch.image[0], batch.image[1])


def test_a_list_of_views_must_fit_later_epochs_too(folder: Path) -> None:
    data = tiny(folder, image_views=[CleanView(), SimCLRViews()])
    attach(data, {'within_modal': 2})
    trainer: Any = data.trainer
    trainer.lightning_module.sides = lambda epoch: {'within_modal': 2} if epoch < 5 else {'cross_modal': 1}
    data.train_dataloader()
    trainer.max_epochs = 6
    with pytest.raises(UsageError, match=r'data.image_views has 2 entries, but some epochs train on 1 view: '):
        data.train_dataloader()


def test_a_list_of_caption_views_needs_one_for_each_view(folder: Path) -> None:
    data = tiny(folder, caption_views=[None, EDA(alpha=0.9, operations=['deletion'])])
    with pytest.raises(UsageError, match=r'data.caption_views has 2 entries, but some epochs train on 1 view: '):
        epoch_batches(data, {'cross_modal': 1})
    for batch in epoch_batches(data, {'cross_modal': 2}):
        assert torch.equal(batch.tokens[0], torch.from_numpy(data.tokens[batch.row].astype(np.int64)))
        assert not torch.equal(batch.tokens[0], batch.tokens[1])


@pytest.mark.parametrize('every', [0, 2])
def test_refuses_a_trainer_whose_later_epochs_would_be_those_of_before(tmp_path: Path, every: int) -> None:
    run = trainer(reload_dataloaders_every_n_epochs=every)
    with pytest.raises(UsageError, match=r'set trainer\.reload_dataloaders_every_n_epochs=1\.$'):
        run.fit(CLIP(architecture=tiny_architecture(tmp_path)), TinyPairs(cache_dir=str(tmp_path)))
