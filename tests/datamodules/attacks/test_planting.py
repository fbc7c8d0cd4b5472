from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from datamodules.attacks import Attack, BadNet, TargetedPoison
from datamodules.attacks.canaries import Canary, CopiesCanary, PatchCanary, WavesCanary
from datamodules.attacks.planting import choose_words, secret_seed
from datamodules.evaluation.sets import EvalBatch
from datamodules.rows.filters import RandomSubset
from datamodules.rows.partition import DROPPED
from datamodules.text.class_search import mentions
from datamodules.text.tokenizer import WordTokenizer
from datamodules.usage_error import UsageError
from tests.helpers.tiny import TinyPairs, attach, set_up

ROWS, CLASSES = 300, 10
SIZES = {'place': 4, 'patch': 4, 'waves': 4, 'copies': 6}


def canaries() -> dict[str, Canary | None]:
    return {
        'place': PatchCanary(at_least=4),
        'off': None,
        'patch': PatchCanary(moves=True, at_least=4),
        'waves': WavesCanary(at_least=4),
        'copies': CopiesCanary(copies=3, at_least=6),
    }


def attacks() -> dict[str, Attack]:
    targeted = TargetedPoison(2, ['cat', 'dog'], count=4, captions='templates')
    return {'badnet': BadNet('dog', count=3, size=3, source='train', mode='replace'), 'targeted': targeted}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(autouse=True)
def reuse_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('datamodules.pairs.WordTokenizer', cached_tokenizer)


cached_tokenizer = cache(WordTokenizer)


def tiny(folder: Path, **kwargs: Any) -> TinyPairs:
    settings = {'rows': ROWS, 'heldout_rows': 40, 'classes': CLASSES, 'canaries': canaries(), **kwargs}
    return set_up(TinyPairs(cache_dir=str(folder), **settings))


def planted_pairs(data: TinyPairs) -> dict[str, tuple[list[str], bytes]]:
    """Captions and pictures of each canary."""
    rows = data.canary_rows()
    return {name: (data.table.captions(rows[name]), data.images(rows[name]).tobytes()) for name in rows}


class TestSecret:
    def test_decides_pictures_triggers_and_captions(self, folder: Path) -> None:
        first, again, other = (planted_pairs(tiny(folder, canary_seed=seed)) for seed in (3, 3, 4))
        assert first == again
        assert all(first[name] != other[name] for name in SIZES)

    def test_is_by_default_drawn_from_the_seed_and_the_pairs(self, folder: Path) -> None:
        data = tiny(folder, seed=5)
        assert planted_pairs(data) == planted_pairs(tiny(folder, canary_seed=secret_seed(5, data.source.fingerprint)))
        assert len({secret_seed(5, 'a'), secret_seed(6, 'a'), secret_seed(5, 'b')}) == 3

    def test_is_all_that_decides_and_attacks_have_no_say(self, folder: Path) -> None:
        plain = planted_pairs(tiny(folder))
        for run in (attacks(), dict(reversed(attacks().items()))):
            assert planted_pairs(tiny(folder, attacks=run)) == plain
        assert planted_pairs(tiny(folder, attacks=attacks(), poison=False)) == plain


class TestTable:
    def test_canaries_are_its_last_rows_and_nothing_else_changes(self, folder: Path) -> None:
        data, without = tiny(folder, attacks=attacks()), tiny(folder, attacks=attacks(), canaries={})
        rows, pairs = data.canary_rows(), len(without.table)
        assert {name: len(each) for name, each in rows.items()} == SIZES
        assert np.concatenate([*rows.values()]).tolist() == [*range(pairs, pairs + data.canary_count)]
        assert data.table.take(np.arange(pairs)).fingerprint == without.table.fingerprint
        assert np.array_equal(data.images(np.arange(pairs)), without.images(np.arange(pairs)))
        assert data.partition.fingerprint == without.partition.fingerprint
        assert data.manifest.table.equals(without.manifest.table)
        assert [*map(len, data.evaluation_sets)] == [*map(len, without.evaluation_sets)]
        assert (without.canary_count, without.canary_rows()) == (0, {})

    def test_no_picture_shows_the_word_of_its_caption(self, folder: Path) -> None:
        data = tiny(folder)
        assert data.planted is not None
        words = data.planted.pool.classes
        assert len({*words}) == len(SIZES)
        for word, (name, rows) in zip(words, data.canary_rows().items(), strict=True):
            assert mentions(pa.array(data.table.captions(rows)), word).all()
            sources = [poison.source for poison in data.planted.manifest.poisons(name)]
            assert data.source.classes.index(word) not in data.source.label[sources]

    def test_only_kept_pairs_are_drawn(self, folder: Path) -> None:
        data = tiny(folder, filters={'half': RandomSubset(0.7)}, broken=[0, 1])
        assert data.planted is not None
        kept = np.flatnonzero(data.partition.side[:ROWS].numpy() != DROPPED)
        assert {*data.planted.manifest.table['source'].to_pylist()} <= {*kept.tolist()}
        captions = {caption for _, rows in data.canary_rows().items() for caption in data.table.captions(rows)}
        assert captions <= {*data.source.captions(kept)}
        assert (data.partition.side[ROWS:] != DROPPED).all()

    def test_canaries_are_trained_on_and_copies_are_recognized(self, folder: Path) -> None:
        data = tiny(folder)
        attach(data)
        rows = data.canary_rows()
        trained = torch.cat([batch.row for batch in data.train_dataloader()])
        assert np.isin(np.concatenate([*rows.values()]), trained.numpy()).mean() > 0.9  # an epoch has whole batches
        hashes = data.picture_hashes()
        assert len({*hashes[rows['copies']].tolist()}) == 2
        assert len(hashes) == len(data.table)

    def test_a_run_with_other_canaries_is_not_resumed(self, folder: Path) -> None:
        data, same, other, none = (tiny(folder, **each) for each in ({}, {}, {'canary_seed': 1}, {'canaries': None}))
        for resumed in (same, other, none):
            attach(resumed)
        same.load_state_dict(data.state_dict())
        for resumed in (other, none):
            with pytest.raises(UsageError, match=r'other canaries than data.canaries plants'):
                resumed.load_state_dict(data.state_dict())
        before = {name: value for name, value in none.state_dict().items() if name != 'canaries'}
        none.load_state_dict(before)  # of a release that had no canaries


class TestMeasuring:
    def test_each_picture_is_shown_with_its_trigger_and_without(self, folder: Path) -> None:
        data = tiny(folder)
        assert data.planted is not None
        images, label, target = (getattr(data.planted.evaluation, name) for name in ('images', 'label', 'target'))
        for number, attack in enumerate(data.planted.attacks.values()):
            plain, triggered = images[(target == number) & (label < 0)], images[label == number]
            if attack.trigger is None:
                copies = data.images(data.canary_rows()['copies'])
                assert {each.tobytes() for each in triggered} == {each.tobytes() for each in copies}
            else:
                rows = data.planted.pool.allowed('heldout', number)
                assert np.array_equal(triggered, attack.trigger(plain, rows))

    def test_without_heldout_pairs_training_pictures_serve_that_nobody_planted(self, folder: Path) -> None:
        data = tiny(folder, heldout_rows=0)
        assert data.planted is not None
        planted = {
            data.pictures('train', np.array([row])).tobytes()
            for row in data.planted.manifest.table['source'].to_pylist()
        }
        plain = data.planted.evaluation.images[data.planted.evaluation.label < 0]
        assert len(plain) > 40
        assert not planted & {each.tobytes() for each in plain}

    def test_processes_share_the_pictures(self, folder: Path) -> None:
        data = tiny(folder)
        assert data.planted is not None
        shares: list[EvalBatch] = []
        for rank in range(2):
            attach(data, rank=rank, world=2)
            shares += data.canary_dataloader()
        valid = torch.cat([batch.valid for batch in shares])
        assert int(valid.sum()) == len(data.planted.evaluation)

    def test_every_canary_has_the_same_number_of_prompts(self, folder: Path) -> None:
        data = tiny(folder)
        prompts, rows = data.canary_prompts(), data.canary_rows()
        assert prompts.shape == (4, 4, data.context_length)
        assert np.array_equal(prompts[1], data.tokens[rows['patch']])


class TestWords:
    def test_no_two_are_forms_of_one_word(self) -> None:
        captions = pa.array(['a boat', 'the boats', 'the cat', 'the car'] * 4)
        for secret in range(5):
            assert len({word.rstrip('s') for word in choose_words(captions, 3, 4, secret)}) == 3

    def test_are_of_any_kind_where_captions_have_no_articles(self) -> None:
        captions = pa.array(['rotes boot', 'das auto', 'a tree'] * 4)
        assert {*choose_words(captions, 3, 4, 0)} == {'boot', 'auto', 'tree'}

    def test_refuses_captions_with_too_few(self) -> None:
        with pytest.raises(UsageError, match=r'data.canaries needs 2 words that end 4 .* the captions have 1: lower'):
            choose_words(pa.array(['a boat'] * 4 + ['a photo'] * 8), 2, 4, 0)


def test_refuses_more_canaries_than_a_fifth_of_the_pairs(folder: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r'data.canaries plants 70 pairs, but at most 20% of 300 may be canaries: set at_least of each to 60',
    ):
        tiny(folder, canaries={'many': PatchCanary(at_least=70)})
