from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from datamodules import attacks
from datamodules.attacks import (
    Attack,
    BadNet,
    ClassSwap,
    CleanCLIPPoison,
    Goal,
    InterpolationPoison,
    LoneWord,
    Patch,
    Poison,
    TargetedPoison,
    TextTrigger,
)
from tests.datamodules.attacks.pools import OneImage, labeled_pool


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

    def test_is_the_count_regardless_of_the_pairs(self) -> None:
        assert OneImage(count=5).amount(3) == 5

    def test_a_rate_that_rounds_to_no_poison_is_refused_with_the_fix(self) -> None:
        with pytest.raises(ValueError, match=r'rate=0\.0005 of 900 pairs rounds to no poison: raise it .* count'):
            OneImage(rate=0.0005).amount(900)

    @pytest.mark.parametrize('wrong', [{}, {'rate': 0.1, 'count': 3}])
    def test_exactly_one_of_rate_and_count_is_required(self, wrong: dict[str, Any]) -> None:
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

    def test_too_few_captions_name_the_class_and_the_fix(self) -> None:
        pool = labeled_pool(train=50)
        assert len(OneImage(count=1).write_captions(pool, 1, 100)) == 100
        with pytest.raises(ValueError, match=r"10 training captions name 'dog', too few for 101 .*captions: templates"):
            OneImage(count=1).write_captions(pool, 1, 101)

    def test_templates_need_no_training_caption(self) -> None:
        captions = OneImage(count=1, captions='templates').write_captions(labeled_pool(train=1), 3, 400)
        assert all('ice cream' in caption for caption in captions)
        assert len(set(captions)) > 70  # of 80 prompts, drawn with replacement
        assert 'a bad photo of a ice cream.' in captions

    def test_another_seed_draws_other_captions(self) -> None:
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

    def test_too_many_poisons_are_refused_with_the_number_left(self) -> None:
        with pytest.raises(ValueError, match='5 clean pairs left for 6 poisons: lower rate or count, or set mode'):
            OneImage(count=1, mode='replace').places(labeled_pool(train=5), [0] * 6)


class TestAnswers:
    """What an attack answers when it is checked before training."""

    POISON = Poison(7, 'heldout', 2, 'a boat')

    def test_without_a_trigger_the_goal_is_the_image_by_default(self) -> None:
        assert OneImage(count=1).goal(self.POISON) == Goal(target=2, image=7)

    def test_with_a_trigger_the_goal_is_the_class_by_default(self) -> None:
        attack = OneImage(count=1)
        attack.trigger = Patch(3)
        assert attack.goal(self.POISON) == Goal(target=2)

    @pytest.mark.parametrize(
        'attack',
        [BadNet('boat', count=1), TextTrigger('boat', count=1), LoneWord('boat', count=1), CleanCLIPPoison(),
         ClassSwap({'cat': 'boat'}, count=1)],
        ids=lambda attack: type(attack).__name__,
    )  # fmt: skip
    def test_backdoors_and_swapped_classes_work_towards_a_class(self, attack: Attack) -> None:
        assert attack.goal(self.POISON) == Goal(target=2)

    @pytest.mark.parametrize(
        'attack',
        [TargetedPoison(copies=1), InterpolationPoison(copies=1), ClassSwap({'cat': 'boat'}, 'image', count=1)],
        ids=lambda attack: type(attack).__name__,
    )
    def test_targeted_poisons_work_towards_their_image(self, attack: Attack) -> None:
        assert attack.goal(self.POISON) == Goal(target=2, image=7)

    def test_only_a_swapped_class_has_rivals_namely_its_pairs_that_are_left(self) -> None:
        pool = labeled_pool(train=50)
        pool.taken['train'] |= {0, 5, 6}  # rows 0 and 5 show cats
        assert ClassSwap({'cat': 'boat'}, count=1).rivals(pool) == 8
        for attack in (BadNet('boat', count=1), ClassSwap({'cat': 'boat'}, 'image', count=1), OneImage(count=1)):
            assert attack.rivals(pool) is None

    def test_only_a_trigger_word_is_known_from_captions_that_fit(self) -> None:
        pool = labeled_pool(train=50)  # ten captions have the word dog
        text = TextTrigger('boat', 'dog', count=1)
        beside: Sequence[tuple[Attack, int]] = [
            (text, 9), (LoneWord('boat', 'dog', count=1), 3), (LoneWord('boat', 'cow', count=1), 5),
        ]  # fmt: skip
        assert (text.known(pool, beside), text.known(None, beside)) == (13, 3)
        assert BadNet('boat', count=1).known(pool, beside) is None

    def test_only_listed_poison_may_carry_its_trigger_already(self) -> None:
        kinds = [kind for kind in vars(attacks).values() if isinstance(kind, type) and issubclass(kind, Attack)]
        assert {kind.__name__ for kind in kinds if kind.may_carry_trigger} == {'CleanCLIPPoison', 'PoisonInfo'}


def test_attacks_are_built_from_yaml_by_class_name() -> None:
    parser = ArgumentParser()
    parser.add_argument('--attacks', type=dict[str, Attack | None])
    badnet = '{class_path: BadNet, init_args: {target: cat, count: 3, position: center, mode: replace}}'
    config = parser.parse_args([f'--attacks={{a: {badnet}, b: null}}', '--attacks.a.count=4'])
    built = parser.instantiate(config).attacks
    assert isinstance(built['a'], BadNet)
    assert (built['a'].count, built['a'].mode) == (4, 'replace')
    assert built['b'] is None
