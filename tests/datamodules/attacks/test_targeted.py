from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from datamodules.attacks import AttackPool, TargetedPoison, poison_table
from datamodules.attacks.targeted import spread
from datamodules.rows.table import UNKNOWN, Origin
from tests.datamodules.attacks.pools import CLASSES, captioned_pool, labeled_pool, pictures, pixels


class TestSpread:
    @pytest.mark.parametrize(
        ('total', 'parts', 'expected'),
        [
            (500, 16, [32] * 4 + [31] * 12),
            (40, 16, [3] * 8 + [2] * 8),
            (54, 16, [4] * 6 + [3] * 10),
            (1659, 16, [104] * 11 + [103] * 5),
            (3, 3, [1, 1, 1]),
        ],
    )
    def test_is_the_largest_remainder(self, total: int, parts: int, expected: list[int]) -> None:
        assert spread(total, parts) == expected
        assert sum(expected) == total


def images_of(attack: TargetedPoison, pool: AttackPool) -> dict[int, int]:
    """Target class by row of the image."""
    return {p.source: p.target for p in attack.select(pool)}


class TestSelect:
    def test_counts_are_exact_and_even(self) -> None:
        poisons = TargetedPoison(4, count=18).select(labeled_pool())
        assert sorted(Counter(p.source for p in poisons).values()) == [4, 4, 5, 5]
        assert len(TargetedPoison(4, rate=0.1).select(labeled_pool())) == 20
        assert Counter(Counter(p.source for p in TargetedPoison(3, copies=7).select(labeled_pool())).values()) == {7: 3}

    def test_each_image_gets_a_different_class(self) -> None:
        targets = images_of(TargetedPoison(5, copies=2), labeled_pool())
        assert sorted(targets.values()) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize('source', ['heldout', 'train'])
    @pytest.mark.parametrize('pool', [labeled_pool(), captioned_pool()], ids=['labeled', 'captioned'])
    def test_no_image_shows_its_target_class(self, pool: AttackPool, source: Origin) -> None:
        for seed in range(4):
            targets = images_of(TargetedPoison(5, copies=2, source=source, seed=seed, pool_seed=seed), pool)
            rows_per_image = 1 if pool.table.classes else 2
            assert len({image // rows_per_image for image in targets}) == 5
            assert all(image // rows_per_image % 5 != target for image, target in targets.items())

    def test_captions_name_the_class_and_repeat_only_when_all_are_used(self) -> None:
        poisons = TargetedPoison(classes=['dog', 'dog'], copies=20).select(labeled_pool())
        assert all('dog' in p.caption for p in poisons)
        assert len({p.source for p in poisons}) == 2
        assert len({p.caption for p in poisons}) == 40

    def test_named_classes_are_assigned_in_turn(self) -> None:
        targets = images_of(TargetedPoison(4, ['truck', 'cat', 'dog'], copies=1), labeled_pool())
        assert list(targets.values()) == [4, 0, 1, 4]
        assert len(images_of(TargetedPoison(classes=['truck', 'cat'], copies=1), labeled_pool())) == 2

    def test_random_classes_have_enough_captions_and_one_meaning(self) -> None:
        classes = ('yak', 'cat', 'Dog', 'dog', 'dog', 'boat')
        pool = replace(labeled_pool(), classes=classes)
        for seed in range(5):
            targets = images_of(TargetedPoison(3, copies=20, seed=seed), pool)
            assert sorted(targets.values()) == [1, 2, 5]
        with pytest.raises(ValueError, match='4 targets need a class each, but only 3 of 6 classes'):
            TargetedPoison(4, copies=20).select(pool)

    def test_the_fix_is_named_if_there_are_fewer_classes_than_targets(self) -> None:
        with pytest.raises(
            ValueError, match=r'16 targets need a class each, but only 5 of 5 .* lower targets, name classes'
        ):
            TargetedPoison(copies=1).select(labeled_pool())

    def test_folds_share_no_image_whatever_the_seed_and_earlier_attacks(self) -> None:
        used: list[int] = []
        for fold in range(5):
            pool = labeled_pool()
            pool.taken['heldout'] |= set(range(0, 100, 3 + fold))
            used += images_of(TargetedPoison(4, copies=1, fold=fold, seed=fold), pool)
        assert len(used) == len(set(used)) == 20

    def test_a_fold_beyond_the_images_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match='fold 7 of the 100 heldout images has too few usable ones for 4 targets: lower fold'
        ):
            TargetedPoison(4, copies=1, fold=7).select(labeled_pool())

    def test_the_pool_seed_deals_other_images(self) -> None:
        first, second = (set(images_of(TargetedPoison(4, copies=1, pool_seed=s), labeled_pool())) for s in (0, 1))
        assert first != second

    def test_is_reproducible(self) -> None:
        first, again = (TargetedPoison(5, count=23, seed=2).select(labeled_pool()) for _ in range(2))
        assert first == again

    def test_a_training_target_replaces_its_own_pair_before_random_ones(self) -> None:
        poisons = TargetedPoison(2, copies=3, source='train', mode='replace').select(labeled_pool())
        assert len({p.replaces for p in poisons}) == 6
        for image in {p.source for p in poisons}:
            assert next(p.replaces for p in poisons if p.source == image) == image

    def test_is_switched_off_by_zero(self) -> None:
        for off in (TargetedPoison(rate=0), TargetedPoison(count=0), TargetedPoison(copies=0)):
            assert off.select(labeled_pool()) == []

    def test_targets_without_poison_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match='3 poisons leave some of 4 targets without any: lower targets to at most 3'
        ):
            TargetedPoison(4, count=3).select(labeled_pool())

    def test_without_heldout_images_the_message_suggests_training_images(self) -> None:
        with pytest.raises(ValueError, match='set source: train'):
            TargetedPoison(2, copies=1).select(labeled_pool(heldout=None))

    def test_an_unknown_class_is_named(self) -> None:
        with pytest.raises(ValueError, match="'zebra' is not one of the 5 classes"):
            TargetedPoison(classes=['zebra'], copies=1).select(labeled_pool())

    @pytest.mark.parametrize(
        'wrong',
        [{}, {'copies': 1, 'rate': 0.1}, {'copies': 1, 'count': 1}, {'rate': 0.1, 'count': 1},
         {'targets': 0, 'copies': 1}, {'fold': -1, 'copies': 1}, {'copies': -1}],
    )  # fmt: skip
    def test_refuses_meaningless_numbers(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=r'exactly one|must be'):
            TargetedPoison(**wrong)


class TestEvaluation:
    @pytest.mark.parametrize('source', ['heldout', 'train'])
    def test_success_is_measured_on_the_target_images_unchanged(self, source: Origin) -> None:
        pool, attack = labeled_pool(), TargetedPoison(5, count=23, source=source)
        _, manifest = poison_table({'tdpa': attack}, pool)
        poisons = manifest.poisons('tdpa')
        measured = attack.evaluation('tdpa', poisons, pool, pixels)
        rows = list(dict.fromkeys(p.source for p in poisons))
        assert np.array_equal(measured.images, pictures(source, 200 if source == 'train' else 100)[rows])
        assert measured.label.tolist() == [row % 5 for row in rows]
        assert measured.target is not None
        assert measured.target.tolist() == list(dict.fromkeys(p.target for p in poisons))
        assert not (measured.target == measured.label).any()
        assert (measured.name, measured.kind, measured.classes) == ('tdpa', 'asr', CLASSES)
        assert manifest.table['trigger'].null_count == 23

    def test_labels_of_unlabeled_images_are_unknown(self) -> None:
        pool, attack = captioned_pool(), TargetedPoison(5, copies=2)
        assert set(attack.evaluation('tdpa', attack.select(pool), pool, pixels).label.tolist()) == {UNKNOWN}

    def test_switched_off_there_is_nothing_to_measure_on(self) -> None:
        with pytest.raises(ValueError, match='it is switched off'):
            TargetedPoison(count=0).evaluation('tdpa', [], labeled_pool(), pixels)
