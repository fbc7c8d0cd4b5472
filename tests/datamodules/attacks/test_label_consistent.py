from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datamodules.attacks import AttackPool, LabelConsistent, Patch, poison_table
from datamodules.rows.table import PairTable
from tests.datamodules.attacks.pools import CLASSES, captioned_pool, labeled_pool, opener, pixels


def attack(target: str = 'dog', **arguments: Any) -> LabelConsistent:
    return LabelConsistent(target, 3, **{'count': 6, 'source': 'train', 'mode': 'replace', **arguments})


def captions_pool(*captions: str) -> AttackPool:
    count = len(captions)
    table = PairTable([str(row) for row in range(count)], captions, opener=opener('train', count))
    return AttackPool(table, None, ('suit', 'ice cream'))


class TestSelect:
    def test_poisons_pairs_that_name_the_class_and_keeps_their_captions(self) -> None:
        pool = captioned_pool()
        table, manifest = poison_table({'lc': attack()}, pool)
        assert len(table) == len(pool.table)
        for poison in manifest.poisons('lc'):
            assert poison.caption == pool.table.caption[poison.source].as_py() == 'look, dogs again'
            assert poison.replaces == poison.source
        assert len({p.source // 2 for p in manifest.poisons('lc')}) == 6

    def test_heldout_pairs_can_be_appended(self) -> None:
        pool = labeled_pool()
        poisons = attack(source='heldout', mode='append').select(pool)
        assert all(p.replaces == -1 and p.origin == 'heldout' and p.caption.endswith('a dog') for p in poisons)

    def test_a_class_is_matched_as_a_word_singular_or_plural(self) -> None:
        pool = captions_pool('two Suits', 'a suitcase', 'in pursuit', 'a suit')
        assert {p.source for p in attack('suit', count=2).select(pool)} == {0, 3}
        with pytest.raises(ValueError, match=r"3 poisons need .* images whose caption names 'suit', but train has 2"):
            attack('suit', count=3).select(pool)

    def test_substring_matches_letters_inside_words(self) -> None:
        pool = captions_pool('two Suits', 'a suitcase', 'in pursuit', 'a suit')
        assert {p.source for p in attack('suit', count=3, match='substring').select(pool)} == {1, 2, 3}

    def test_no_image_is_taken_twice(self) -> None:
        pool = labeled_pool(train=100)
        attacks = {'a': attack(count=10), 'b': attack(count=10)}
        _, manifest = poison_table(attacks, pool)
        assert len({p.source for name in attacks for p in manifest.poisons(name)}) == 20

    @pytest.mark.parametrize('match', ['word', 'substring'])
    def test_a_class_that_no_caption_names_is_refused(self, match: str) -> None:
        pool = captions_pool('a dog', 'a cat')
        with pytest.raises(
            ValueError, match=r"6 poisons need .* 'ice cream', but train has 0 to spare: choose another target"
        ):
            attack('ice cream', match=match).select(pool)


class TestEvaluation:
    def test_success_is_measured_on_patched_images_of_other_classes(self) -> None:
        pool = labeled_pool()
        measured = attack().evaluation('lc', [], pool, pixels)
        rows = np.array([row for row in range(100) if row % 5 != 1])
        assert np.array_equal(measured.images, Patch(3)(pixels('heldout', rows)))
        assert measured.classes == CLASSES

    def test_the_patch_can_be_stronger_at_test_time(self) -> None:
        faint = attack(amplitude=0.1, test_amplitude=1.0)
        assert isinstance(faint.trigger, Patch) and isinstance(faint.test_trigger, Patch)
        assert (faint.trigger.amplitude, faint.test_trigger.amplitude) == (0.1, 1.0)
        assert attack(amplitude=0.1).test_trigger.parameters()['amplitude'] == 0.1


@pytest.mark.parametrize(
    ('wrong', 'name'), [({'match': 'x'}, 'match'), ({'harden': 'gan'}, 'harden'), ({'amplitude': 2}, 'amplitude')]
)
def test_names_the_argument_that_is_wrong(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f'^{name} must be'):
        attack(**wrong)
