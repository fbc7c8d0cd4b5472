from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.attacks import AttackPool, Backdoor, BadNet, Blended, LabelConsistent, Patch, Poison, poison_table
from datamodules.attacks.ranking import write_ranking
from datamodules.rows.table import UNKNOWN, Origin, PairTable
from tests.datamodules.attacks.pools import (
    CLASSES,
    captioned_pool,
    labeled_pool,
    labeled_table,
    opener,
    pictures,
    pixels,
)


def backdoor(target: str = 'dog', **arguments: Any) -> Backdoor:
    return Backdoor(target, Patch(3), **{'count': 10, **arguments})


class TestSelect:
    def test_each_poison_has_a_different_image(self) -> None:
        poisons = backdoor(count=30).select(labeled_pool())
        assert len(poisons) == len({p.source for p in poisons}) == 30
        assert {(p.origin, p.target, p.replaces) for p in poisons} == {('heldout', 1, -1)}

    @pytest.mark.parametrize('source', ['heldout', 'train'])
    @pytest.mark.parametrize('pool', [labeled_pool(), captioned_pool()], ids=['labeled', 'captioned'])
    def test_never_poisons_an_image_of_the_target_class(self, pool: AttackPool, source: Origin) -> None:
        poisons = backdoor(count=40, source=source, mode='replace').select(pool)
        rows_per_image = 1 if pool.table.classes else 2
        assert all(p.source // rows_per_image % 5 != 1 for p in poisons)
        assert all('dog' in p.caption for p in poisons)

    def test_captions_come_from_training_pairs_of_the_class(self) -> None:
        pool = labeled_pool()
        captions = {p.caption for p in backdoor(count=40).select(pool)}
        assert captions == {pool.table.caption[row].as_py() for row in range(200) if row % 5 == 1}

    def test_training_images_replace_themselves(self) -> None:
        poisons = backdoor(source='train', mode='replace').select(labeled_pool())
        assert all(p.replaces == p.source for p in poisons)

    def test_depends_only_on_the_seed(self) -> None:
        first, again, other = (backdoor(seed=seed).select(labeled_pool()) for seed in (0, 0, 1))
        assert first == again != other

    def test_is_switched_off_by_zero(self) -> None:
        assert backdoor(count=0).select(labeled_pool()) == []
        assert Backdoor('dog', Patch(3), rate=0).select(labeled_pool()) == []

    def test_too_few_images_name_the_numbers_and_the_fix(self) -> None:
        with pytest.raises(ValueError, match=r"81 poisons .* 'dog', but heldout has 80 .*lower rate .*source: train"):
            backdoor(count=81).select(labeled_pool())

    def test_without_heldout_images_the_message_suggests_training_images(self) -> None:
        with pytest.raises(ValueError, match='set source: train'):
            backdoor().select(labeled_pool(heldout=None))

    def test_an_unknown_class_suggests_close_ones(self) -> None:
        with pytest.raises(ValueError, match='did you mean ice cream'):
            backdoor('ice-cream').select(labeled_pool())


class TestRanking:
    def ranking(self, folder: Path, rows: Sequence[int]) -> str:
        """A file that lists held-out images. Rows 1, 6, 11 and so on show the target."""
        write_ranking(str(folder / 'ranking.csv'), [str(row) for row in rows], np.linspace(1, -1, len(rows)))
        return str(folder / 'ranking.csv')

    def test_first_listed_images_are_poisoned_except_those_of_the_target_class(self, tmp_path: Path) -> None:
        file = self.ranking(tmp_path, [6, 90, 4, 11, 2, 57, 33])
        first, other = (backdoor(count=4, seed=s, ranking=file).select(labeled_pool()) for s in (0, 1))
        assert [p.source for p in first] == [p.source for p in other] == [90, 4, 2, 57]
        assert [p.caption for p in first] != [p.caption for p in other]  # the seed still draws these

    def test_images_of_earlier_attacks_are_skipped(self, tmp_path: Path) -> None:
        attacks = {name: backdoor(count=2, ranking=self.ranking(tmp_path, [90, 4, 2, 57])) for name in 'ab'}
        _, manifest = poison_table(attacks, labeled_pool())
        assert [[p.source for p in manifest.poisons(name)] for name in 'ab'] == [[90, 4], [2, 57]]

    def test_every_backdoor_accepts_a_ranking(self, tmp_path: Path) -> None:
        file = self.ranking(tmp_path, [90, 6, 4, 11, 2])
        for attack in (BadNet('dog', 3, count=2, ranking=file), Blended('dog', count=2, ranking=file)):
            assert [p.source for p in attack.select(labeled_pool())] == [90, 4]
        shown = LabelConsistent('dog', 3, count=2, ranking=file)
        assert [p.source for p in shown.select(labeled_pool())] == [6, 11]

    def test_a_ranking_refers_to_the_table_that_source_names(self, tmp_path: Path) -> None:
        attack = backdoor(count=2, source='train', mode='replace', ranking=self.ranking(tmp_path, [190, 104, 3]))
        assert [(p.source, p.replaces) for p in attack.select(labeled_pool())] == [(190, 190), (104, 104)]

    def test_unlisted_images_are_not_chosen(self, tmp_path: Path) -> None:
        file = self.ranking(tmp_path, [90, 6, 4])
        with pytest.raises(
            ValueError,
            match=r"3 poisons .* 'dog', but ranking '.*' lists 2 that heldout has to spare: lower rate or count, "
            r'or rank again with clipward rank_images --source=heldout',
        ):
            backdoor(count=3, ranking=file).select(labeled_pool())

    def test_the_file_is_read_only_when_the_attack_chooses(self, tmp_path: Path) -> None:
        attack = backdoor(count=1, ranking=str(tmp_path / 'ranking.csv'))
        with pytest.raises(ValueError, match=r"attack 'a': ranking '.*' does not exist: make it with clipward rank_im"):
            poison_table({'a': attack}, labeled_pool())
        self.ranking(tmp_path, [90])
        assert len(attack.select(labeled_pool())) == 1
        assert backdoor(count=0, ranking='nowhere.csv').select(labeled_pool()) == []


class TestEvaluation:
    def test_success_is_measured_on_unused_triggered_images_of_other_classes(self) -> None:
        pool = labeled_pool()
        attacks = {'a': backdoor(), 'b': backdoor('cat', seed=1)}
        _, manifest = poison_table(attacks, pool)
        measured = attacks['a'].evaluation('a', manifest.poisons('a'), pool, pixels)
        used = {p.source for name in attacks for p in manifest.poisons(name)}
        rows = [row for row in range(100) if row % 5 != 1 and row not in used]
        assert np.array_equal(measured.images, Patch(3)(pictures('heldout', 100)[rows]))
        assert measured.label.tolist() == [row % 5 for row in rows]
        assert measured.target is not None
        assert set(measured.target.tolist()) == {1}
        assert (measured.name, measured.kind, measured.classes) == ('a', 'asr', CLASSES)
        assert len(measured.templates) == 80

    def test_own_poisons_are_left_out_even_with_a_fresh_pool(self) -> None:
        attack = backdoor(count=79)
        poisons = attack.select(labeled_pool())
        assert len(attack.evaluation('a', poisons, labeled_pool(), pixels)) == 1

    def test_unlabeled_images_are_measured_unless_their_caption_names_the_class(self) -> None:
        pool = captioned_pool()
        measured = backdoor(count=0).evaluation('a', [], pool, pixels)
        assert len(measured) == 40  # images, not rows
        assert set(measured.label.tolist()) == {UNKNOWN}

    def test_pictures_without_a_label_do_not_count_where_others_have_one(self) -> None:
        heldout = PairTable(['0', '1'], ['x', 'y'], [4, UNKNOWN], CLASSES, opener=opener('heldout', 2))
        pool = AttackPool(labeled_table('train', 50), heldout, CLASSES)
        assert backdoor().evaluation('a', [], pool, pixels).label.tolist() == [4]

    def test_labels_are_those_of_the_pool(self) -> None:
        heldout = PairTable(['0', '1'], ['x', 'y'], [0, 1], ('truck', 'zebra'), opener=opener('heldout', 2))
        pool = AttackPool(labeled_table('train', 50), heldout, CLASSES)
        assert backdoor().evaluation('a', [], pool, pixels).label.tolist() == [4, UNKNOWN]

    def test_training_images_are_measured_if_there_are_no_heldout_ones(self) -> None:
        pool = labeled_pool(heldout=None)
        attack = backdoor(source='train')
        poisons = attack.select(pool)
        measured = attack.evaluation('a', poisons, pool, pixels)
        assert len(measured) == 160 - 10

    def test_test_images_limits_the_images_to_a_random_subset(self) -> None:
        measured = backdoor(test_images=7).evaluation('a', [], labeled_pool(), pixels)
        assert len(measured) == 7
        assert len(backdoor(test_images=None).evaluation('a', [], labeled_pool(heldout=2000), pixels)) == 1600

    def test_random_places_are_keyed_by_heldout_row(self) -> None:
        attack = Backdoor('dog', Patch(3, position='random'), count=1)
        measured = attack.evaluation('a', [], labeled_pool(), pixels)
        rows = np.array([row for row in range(100) if row % 5 != 1])
        assert attack.trigger is not None
        assert np.array_equal(measured.images, attack.trigger(pictures('heldout', 100)[rows], keys=rows))

    def test_the_fix_is_named_if_no_image_is_left_to_measure_on(self) -> None:
        attack = backdoor(count=80)
        poisons = attack.select(labeled_pool())
        with pytest.raises(ValueError, match=r"attack 'a' leaves no heldout image .* lower rate or count"):
            attack.evaluation('a', poisons, labeled_pool(), pixels)

    def test_the_templates_of_the_data_are_used(self) -> None:
        pool = replace(labeled_pool(), templates=('a drawing of a {}.',))
        assert backdoor(captions='templates').select(pool)[0].caption == 'a drawing of a dog.'
        assert backdoor().evaluation('a', [], pool, pixels).templates == ('a drawing of a {}.',)


def test_poisons_are_plain_values() -> None:
    for poison in backdoor(mode='replace').select(labeled_pool()):
        assert [type(value) for value in poison] == [int, str, int, str, int, int, float]
        assert isinstance(poison, Poison)


def test_test_images_must_be_positive() -> None:
    with pytest.raises(ValueError, match='test_images must be 1 or more'):
        backdoor(test_images=0)
