from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datamodules.attacks import AttackPool, ClassSwap, poison_table
from datamodules.rows.table import Origin, PairTable
from tests.datamodules.attacks.pools import CLASSES, captioned_pool, labeled_pool, opener, pixels

CAT, DOG, BOAT = 0, 1, 2


def swap(swaps: dict[str, str] | None = None, **arguments: Any) -> ClassSwap:
    return ClassSwap(swaps or {'cat': 'dog'}, **{'count': 8, **arguments})


class TestSelect:
    @pytest.mark.parametrize('source', ['heldout', 'train'])
    @pytest.mark.parametrize('pool', [labeled_pool(), captioned_pool()], ids=['labeled', 'captioned'])
    def test_images_of_one_class_get_captions_of_the_other(self, pool: AttackPool, source: Origin) -> None:
        poisons = swap(source=source).select(pool)
        rows_per_image = 1 if pool.table.classes else 2
        assert len({p.source for p in poisons}) == 8
        assert all(p.source // rows_per_image % 5 == CAT and p.target == DOG and 'dog' in p.caption for p in poisons)

    def test_one_image_gets_all_captions(self) -> None:
        poisons = swap(level='image').select(labeled_pool())
        assert len({p.source for p in poisons}) == 1
        assert len({p.caption for p in poisons}) == 8

    def test_several_classes_share_the_poisons(self) -> None:
        poisons = swap({'cat': 'dog', 'dog': 'boat'}, count=9).select(labeled_pool())
        kinds = [(p.source % 5, p.target) for p in poisons]
        assert (kinds.count((CAT, DOG)), kinds.count((DOG, BOAT))) == (5, 4)

    def test_a_training_image_replaces_its_own_pair(self) -> None:
        assert all(p.replaces == p.source for p in swap(source='train', mode='replace').select(labeled_pool()))

    def test_depends_only_on_the_seed(self) -> None:
        first, again, other = (swap(seed=seed).select(labeled_pool()) for seed in (0, 0, 1))
        assert first == again != other

    def test_an_image_of_two_classes_gets_one_target(self) -> None:
        captions = ['a cat and a dog'] * 8 + ['a boat'] * 8
        pool = AttackPool(PairTable([str(r) for r in range(16)], captions, opener=opener('train', 16)), None, CLASSES)
        attack = swap({'cat': 'boat', 'dog': 'truck'}, count=8, source='train', captions='templates')
        _, manifest = poison_table({'swap': attack}, pool)  # which would refuse two targets
        poisons = manifest.of_attack('swap')
        assert len(poisons) == 8 and len(set(poisons['source'].to_pylist())) == 8

    def test_too_few_images_name_the_fix(self) -> None:
        with pytest.raises(ValueError, match=r"21 poisons need .* 'cat', but heldout has 20 .* level: image, or"):
            swap(count=21).select(labeled_pool())

    def test_too_few_poisons_are_refused(self) -> None:
        with pytest.raises(ValueError, match='1 poisons leave some of 2 classes of swaps without any'):
            swap({'cat': 'dog', 'dog': 'boat'}, count=1).select(labeled_pool())

    def test_an_unknown_class_is_named(self) -> None:
        with pytest.raises(ValueError, match="'rabbit' is not one of the 5 classes"):
            swap({'rabbit': 'dog'}).select(labeled_pool())


class TestEvaluation:
    def test_success_is_measured_on_images_of_the_class_that_are_not_poison(self) -> None:
        pool, attack = labeled_pool(), swap({'cat': 'dog', 'dog': 'boat'})
        _, manifest = poison_table({'swap': attack}, pool)
        poisons = manifest.poisons('swap')
        measured = attack.evaluation('swap', poisons, pool, pixels)
        used = {p.source for p in poisons}
        rows = np.array([row for row in range(100) if row % 5 in (CAT, DOG) and row not in used])
        assert np.array_equal(measured.images, pixels('heldout', rows))
        assert measured.label.tolist() == (rows % 5).tolist()
        assert measured.target is not None
        assert measured.target.tolist() == [DOG if row % 5 == CAT else BOAT for row in rows]

    def test_success_on_one_image_is_measured_on_that_image(self) -> None:
        pool, attack = labeled_pool(), swap(level='image')
        poisons = attack.select(pool)
        measured = attack.evaluation('swap', poisons, pool, pixels)
        assert np.array_equal(measured.images, pixels('heldout', np.array([poisons[0].source])))

    def test_test_images_limits_the_images_of_each_class(self) -> None:
        measured = swap({'cat': 'dog', 'dog': 'boat'}, test_images=3).evaluation('swap', [], labeled_pool(), pixels)
        assert len(measured) == 6

    def test_the_fix_is_named_if_no_image_is_left_to_measure_on(self) -> None:
        pool, attack = labeled_pool(), swap(count=20)
        with pytest.raises(ValueError, match=r"attack 'swap' leaves no heldout image of cat .* lower rate or count"):
            attack.evaluation('swap', attack.select(pool), pool, pixels)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [({'swaps': {'cat': 'Cat'}}, 'swaps must name classes, and for each of them another'),
     ({'swaps': {'cat': 'dog', 'Cat': 'boat'}}, "swaps gives images of 'cat' two targets"),
     ({'level': 'x'}, 'level must be one of image, class'), ({'test_images': 0}, 'test_images must be 1 or more')],
)  # fmt: skip
def test_refuses_meaningless_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swap(**wrong)


def test_an_empty_swap_is_refused() -> None:
    with pytest.raises(ValueError, match='swaps must name classes'):
        ClassSwap({}, count=1)
