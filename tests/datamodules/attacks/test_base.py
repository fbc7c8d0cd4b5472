from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from datamodules.attacks import Attack, AttackPool, BadNet, Pixels, Poison, TargetedPoison, poisoned
from datamodules.evaluation.sets import EvaluationSet
from tests.datamodules.attacks.pools import captioned_pool, labeled_pool, pictures


class OneImage(Attack):
    """The least that a new attack has to say: copies of the first free image."""

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        source = int(pool.allowed(self.source, 0)[0])
        captions, places = self.write_captions(pool, 0, amount), self.places(pool, [source] * amount)
        return [Poison(source, self.source, 0, c, p) for c, p in zip(captions, places, strict=True)]

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        rows = np.unique([poison.source for poison in poisons])
        labels, targets = pool.labels(self.source, rows), np.zeros(len(rows), np.int64)
        return EvaluationSet(name, pixels(self.source, rows), labels, targets, pool.classes, pool.templates)


class TestAmount:
    @pytest.mark.parametrize(
        ('rate', 'pairs', 'poisons'),
        [
            (0.0005, 3_000_000, 1500), (0.0015, 3_000_000, 4500), (0.0005, 1_000_000, 500), (0.0015, 1_000_000, 1500),
            (0.0005, 80_000, 40), (0.0015, 80_000, 120), (0.0005, 108_077, 54), (0.0015, 108_077, 162),
            (0.0005, 3_318_333, 1659), (1e-6, 3_318_333, 3), (1, 7, 7), (0, 7, 0),
        ],
    )  # fmt: skip
    def test_is_the_rate_of_the_clean_pairs(self, rate: float, pairs: int, poisons: int) -> None:
        assert OneImage(rate=rate).amount(pairs) == poisons

    def test_is_the_count_whatever_the_pairs(self) -> None:
        assert OneImage(count=5).amount(3) == 5

    def test_a_rate_that_comes_to_nothing_names_itself_the_pairs_and_the_way_out(self) -> None:
        with pytest.raises(ValueError, match=r'rate=0\.0005 of 900 pairs rounds to no poison: raise it .* count'):
            OneImage(rate=0.0005).amount(900)

    @pytest.mark.parametrize('wrong', [{}, {'rate': 0.1, 'count': 3}])
    def test_is_given_in_exactly_one_way(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match='exactly one of rate and count'):
            OneImage(**wrong)

    @pytest.mark.parametrize(
        ('wrong', 'name'),
        [({'rate': 1.5}, 'rate'), ({'rate': -0.1}, 'rate'), ({'rate': float('nan')}, 'rate'), ({'count': -1}, 'count'),
         ({'count': 1, 'mode': 'x'}, 'mode'), ({'count': 1, 'source': 'x'}, 'source'),
         ({'count': 1, 'captions': 'x'}, 'captions')],
    )  # fmt: skip
    def test_names_the_argument_that_is_out_of_range(self, wrong: dict[str, Any], name: str) -> None:
        with pytest.raises(ValueError, match=f'^{name} must be'):
            OneImage(**wrong)


class TestCaptions:
    def test_each_training_caption_is_used_once_before_any_is_used_twice(self) -> None:
        pool = labeled_pool(train=50)  # ten captions name each class
        captions = OneImage(count=1).write_captions(pool, 1, 25)
        assert all('dog' in caption for caption in captions)
        assert set(captions[:10]) == set(captions[10:20])
        assert sorted(Counter(captions).values()) == [2] * 5 + [3] * 5

    def test_too_few_name_the_class_and_the_way_out(self) -> None:
        pool = labeled_pool(train=50)
        assert len(OneImage(count=1).write_captions(pool, 1, 100)) == 100
        with pytest.raises(ValueError, match=r"10 training captions name 'dog', too few for 101 .*captions: templates"):
            OneImage(count=1).write_captions(pool, 1, 101)

    def test_templates_need_no_training_caption(self) -> None:
        captions = OneImage(count=1, captions='templates').write_captions(labeled_pool(train=1), 3, 400)
        assert all('ice cream' in caption for caption in captions)
        assert len(set(captions)) > 70  # of 80 prompts, drawn with replacement
        assert 'a bad photo of a ice cream.' in captions

    def test_seeds_and_classes_draw_different_ones(self) -> None:
        pool = labeled_pool()
        drawn = [OneImage(count=1, seed=seed).write_captions(pool, 1, 9) for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]


class TestPlaces:
    def test_appended_poisons_replace_nothing(self) -> None:
        assert OneImage(count=1).places(labeled_pool(), [3, 3, 4]) == [-1, -1, -1]

    def test_a_training_image_replaces_its_own_pair_first(self) -> None:
        places = OneImage(count=1, mode='replace', source='train').places(labeled_pool(), [3, 3, 4])
        assert (places[0], places[2]) == (3, 4)
        assert places[1] not in (3, 4)

    def test_heldout_images_replace_pairs_that_no_attack_has_used(self) -> None:
        pool = labeled_pool(train=20)
        pool.taken['train'] |= {0, 5}
        places = OneImage(count=1, mode='replace').places(pool, list(range(18)))
        assert sorted(places) == [row for row in range(20) if row not in (0, 5)]

    def test_too_many_poisons_name_what_is_left(self) -> None:
        with pytest.raises(ValueError, match='5 clean pairs left for 6 poisons: lower rate or count, or set mode'):
            OneImage(count=1, mode='replace').places(labeled_pool(train=5), [0] * 6)


class TestPoisoned:
    def test_clean_rows_keep_their_numbers_and_poisons_follow(self) -> None:
        pool = labeled_pool()
        table, manifest = poisoned({'a': OneImage(count=2), 'off': OneImage(rate=0), 'none': None}, pool)
        assert len(table) == 202
        assert table.image[:200].to_pylist() == pool.table.image.to_pylist()
        assert table.captions([200, 201]) == manifest.table['caption'].to_pylist()
        assert manifest.attacks == ('a',)
        assert manifest.rows().tolist() == [200, 201]

    def test_replaced_rows_hold_the_poison(self) -> None:
        pool = labeled_pool()
        table, manifest = poisoned({'a': OneImage(count=3, mode='replace')}, pool)
        rows = manifest.rows()
        assert len(table) == 200
        assert table.captions(rows) == manifest.table['caption'].to_pylist()
        others = np.setdiff1d(np.arange(200), rows)
        assert table.captions(others) == pool.table.captions(others)

    def test_mixed_attacks_number_their_rows_apart(self) -> None:
        attacks = {'a': OneImage(count=2), 'b': OneImage(count=2, mode='replace'), 'c': OneImage(count=2)}
        table, manifest = poisoned(attacks, labeled_pool())
        assert manifest.rows('a').tolist() == [200, 201]
        assert (manifest.rows('b') < 200).all()
        assert manifest.rows('c').tolist() == [202, 203]
        assert table.captions(manifest.rows()) == manifest.table['caption'].to_pylist()

    def test_an_image_and_its_label_are_those_of_the_source(self) -> None:
        table, manifest = poisoned({'a': OneImage(count=1)}, labeled_pool())
        source = manifest.poisons('a')[0].source
        assert np.array_equal(np.asarray(table.open(200)).transpose(2, 0, 1), pictures('heldout', 100)[source])
        assert table.label[200] == source % 5
        assert np.array_equal(np.asarray(table.open(source)).transpose(2, 0, 1), pictures('train', 200)[source])

    @pytest.mark.parametrize('source', ['heldout', 'train'])
    def test_no_two_attacks_use_an_image_even_with_one_seed(self, source: str) -> None:
        attacks = [OneImage(count=1, source=source) for _ in range(6)]
        _, manifest = poisoned({str(i): attack for i, attack in enumerate(attacks)}, captioned_pool())
        images = np.array(manifest.table['source'].to_pylist()) // 2
        assert len(set(images.tolist())) == 6

    def test_without_poison_the_table_is_the_clean_one(self) -> None:
        pool = labeled_pool()
        assert poisoned({'off': OneImage(count=0)}, pool)[0] is pool.table

    def test_errors_name_the_attack(self) -> None:
        with pytest.raises(ValueError, match=r"attack 'weak': rate=0\.0001 of 200 pairs"):
            poisoned({'weak': OneImage(rate=0.0001)}, labeled_pool())


def test_an_image_with_two_targets_is_refused() -> None:
    class TwoTargets(OneImage):
        def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
            return [Poison(row, 'heldout', row % 2, 'a cat') for row in (6, 7)]  # two rows of one image

    with pytest.raises(ValueError, match=r"attack 'a': the image of heldout row 7 has two targets, 'cat' and 'dog'"):
        poisoned({'a': TwoTargets(count=1)}, captioned_pool())


def test_poison_never_changes() -> None:
    """Stored digests: the same in every process, on every machine, with every release."""
    attacks = {'a': BadNet('cat', 4, count=9), 'b': TargetedPoison(4, copies=3)}
    table, manifest = poisoned(attacks, captioned_pool())
    assert (manifest.digest, table.fingerprint) == ('0cd03115f7658b33', '8ecd0bb1021a9159')


def test_attacks_are_built_from_yaml_by_class_name() -> None:
    parser = ArgumentParser()
    parser.add_argument('--attacks', type=dict[str, Attack | None])
    badnet = '{class_path: BadNet, init_args: {target: cat, count: 3, position: center, mode: replace}}'
    config = parser.parse_args([f'--attacks={{a: {badnet}, b: null}}', '--attacks.a.count=4'])
    attacks = parser.instantiate(config).attacks
    assert isinstance(attacks['a'], BadNet)
    assert (attacks['a'].count, attacks['a'].mode) == (4, 'replace')
    assert attacks['b'] is None
