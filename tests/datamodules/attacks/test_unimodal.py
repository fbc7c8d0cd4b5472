from __future__ import annotations

import numpy as np
import pytest

from datamodules.attacks import AttackPool, Blend, Patch, UnimodalBackdoor, poison_table
from datamodules.rows.table import Origin, PairTable
from tests.datamodules.attacks.pools import CLASSES, captioned_pool, labeled_pool, opener, pixels

DOG = 1


class TestSelect:
    @pytest.mark.parametrize('source', ['heldout', 'train'])
    @pytest.mark.parametrize('pool', [labeled_pool(), captioned_pool()], ids=['labeled', 'captioned'])
    def test_poisons_images_of_the_class_and_keeps_their_captions(self, pool: AttackPool, source: Origin) -> None:
        poisons = UnimodalBackdoor('dog', count=6, source=source).select(pool)
        rows_per_image = 1 if pool.table.classes else 2
        assert len({p.source // rows_per_image for p in poisons}) == len(poisons) == 6
        assert all(p.source // rows_per_image % 5 == DOG and p.target == DOG for p in poisons)
        for poison in poisons:
            assert [poison.caption] == pool.origin(source).captions([poison.source])
            assert 'dog' in poison.caption  # of the two captions of an image the one that shows it to be of the class

    def test_labels_take_precedence_over_captions(self) -> None:
        captions = ['my best friend', 'a dog painted on a boat', 'good boy']
        table = PairTable(['0', '1', '2'], captions, [1, 2, 1], CLASSES, opener=opener('train', 3))
        attack = UnimodalBackdoor('dog', count=2, source='train')
        assert {p.source: p.caption for p in attack.select(AttackPool(table, None, CLASSES))} == {
            0: 'my best friend', 2: 'good boy',
        }  # fmt: skip

    def test_in_replace_mode_each_pair_replaces_itself_and_their_number_stays(self) -> None:
        pool = labeled_pool(train=2000)
        table, manifest = poison_table(
            {'uni': UnimodalBackdoor('dog', rate=0.0015, source='train', mode='replace')}, pool
        )
        assert (len(table), len(manifest)) == (2000, 3)
        assert all(p.replaces == p.source for p in manifest.poisons('uni'))

    def test_the_default_trigger_is_a_patch_of_16_pixels_drawn_from_the_seed(self) -> None:
        usual, given = UnimodalBackdoor('dog', count=1, seed=3), UnimodalBackdoor('dog', Blend(), count=1)
        assert usual.trigger is not None and given.trigger is not None
        assert usual.trigger.describe() == Patch(16, seed=3).describe()
        assert given.trigger.describe() == Blend().describe()

    def test_depends_only_on_the_seed(self) -> None:
        first, again, other = (UnimodalBackdoor('dog', count=6, seed=s).select(labeled_pool()) for s in (0, 0, 1))
        assert first == again != other

    def test_skips_images_of_earlier_attacks(self) -> None:
        attacks = {'a': UnimodalBackdoor('dog', count=12), 'b': UnimodalBackdoor('dog', count=8)}
        _, manifest = poison_table(attacks, labeled_pool())
        assert len({p.source for name in attacks for p in manifest.poisons(name)}) == 20  # all dogs there are

    def test_the_fix_is_named_if_no_image_shows_the_class(self) -> None:
        pool = labeled_pool(heldout=1)
        with pytest.raises(
            ValueError,
            match=r"6 poisons need as many images that show 'dog', but heldout has 0 to spare: "
            r'choose another target, or set source: train\.',
        ):
            UnimodalBackdoor('dog', count=6).select(pool)
        with pytest.raises(ValueError, match=r'heldout has 20 to spare: lower rate or count, or set source: train'):
            UnimodalBackdoor('dog', count=21).select(labeled_pool())


def test_success_is_measured_on_triggered_images_of_other_classes() -> None:
    pool, attack = labeled_pool(), UnimodalBackdoor('dog', Patch(3), count=6)
    _, manifest = poison_table({'uni': attack}, pool)
    measured = attack.evaluation('uni', manifest.poisons('uni'), pool, pixels)
    rows = np.array([row for row in range(100) if row % 5 != DOG])
    assert np.array_equal(measured.images, Patch(3)(pixels('heldout', rows)))
    assert measured.target is not None and set(measured.target.tolist()) == {DOG}
    assert np.array_equal(measured.label, rows % 5)
