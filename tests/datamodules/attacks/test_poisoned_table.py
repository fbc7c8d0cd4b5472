from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datamodules.attacks import AttackPool, BadNet, Poison, TargetedPoison, poison_table
from datamodules.attacks.poisoned_table import EitherImages
from datamodules.pictures.images import FolderImages, TarImages
from tests.datamodules.attacks.pools import OneImage, captioned_pool, labeled_pool, pictures


class TestPoisonTable:
    def test_clean_rows_keep_their_numbers_and_poisons_follow(self) -> None:
        pool = labeled_pool()
        table, manifest = poison_table({'a': OneImage(count=2), 'off': OneImage(rate=0), 'none': None}, pool)
        assert len(table) == 202
        assert table.image[:200].to_pylist() == pool.table.image.to_pylist()
        assert table.captions([200, 201]) == manifest.table['caption'].to_pylist()
        assert manifest.attacks == ('a',)
        assert manifest.rows().tolist() == [200, 201]

    def test_replaced_rows_hold_the_poison(self) -> None:
        pool = labeled_pool()
        table, manifest = poison_table({'a': OneImage(count=3, mode='replace')}, pool)
        rows = manifest.rows()
        assert len(table) == 200
        assert table.captions(rows) == manifest.table['caption'].to_pylist()
        others = np.setdiff1d(np.arange(200), rows)
        assert table.captions(others) == pool.table.captions(others)

    def test_a_replaced_pair_keeps_its_keys_and_an_appended_one_has_none(self) -> None:
        pool = labeled_pool()
        pool.table.keys = {'uid': pa.array([f'uid {row}' for row in range(200)])}
        attacks = {'replace': OneImage(count=2, mode='replace'), 'append': OneImage(count=2)}
        table, manifest = poison_table(attacks, pool)
        uids = table.keys['uid'].to_pylist()
        assert [uids[row] for row in manifest.rows('replace')] == [f'uid {row}' for row in manifest.rows('replace')]
        assert [uids[row] for row in manifest.rows('append')] == [None, None]

    def test_pictures_of_both_tables_have_the_names_that_their_openers_give_them(self) -> None:
        references = pa.chunked_array([['a/0.jpg'], ['heldout:0.tar:7:512:30']])
        opener = EitherImages(FolderImages('a'), TarImages('b'))
        assert opener.names(references).to_pylist() == ['a/0.jpg', 'heldout:0.tar:7']

    def test_appending_and_replacing_attacks_can_be_combined(self) -> None:
        attacks = {'a': OneImage(count=2), 'b': OneImage(count=2, mode='replace'), 'c': OneImage(count=2)}
        table, manifest = poison_table(attacks, labeled_pool())
        assert manifest.rows('a').tolist() == [200, 201]
        assert (manifest.rows('b') < 200).all()
        assert manifest.rows('c').tolist() == [202, 203]
        assert table.captions(manifest.rows()) == manifest.table['caption'].to_pylist()

    def test_an_image_and_its_label_are_those_of_the_source(self) -> None:
        table, manifest = poison_table({'a': OneImage(count=1)}, labeled_pool())
        source = manifest.poisons('a')[0].source
        assert np.array_equal(np.asarray(table.open(200)).transpose(2, 0, 1), pictures('heldout', 100)[source])
        assert table.label[200] == source % 5
        assert np.array_equal(np.asarray(table.open(source)).transpose(2, 0, 1), pictures('train', 200)[source])

    @pytest.mark.parametrize('source', ['heldout', 'train'])
    def test_no_two_attacks_use_the_same_image_even_with_the_same_seed(self, source: str) -> None:
        attacks = [OneImage(count=1, source=source) for _ in range(6)]
        _, manifest = poison_table({str(i): attack for i, attack in enumerate(attacks)}, captioned_pool())
        images = np.array(manifest.table['source'].to_pylist()) // 2
        assert len(set(images.tolist())) == 6

    def test_without_poison_the_table_is_the_clean_one(self) -> None:
        pool = labeled_pool()
        assert poison_table({'off': OneImage(count=0)}, pool)[0] is pool.table

    def test_errors_name_the_attack(self) -> None:
        with pytest.raises(ValueError, match=r"attack 'weak': rate=0\.0001 of 200 pairs"):
            poison_table({'weak': OneImage(rate=0.0001)}, labeled_pool())


def test_an_image_with_two_targets_is_refused() -> None:
    class TwoTargets(OneImage):
        def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
            return [Poison(row, 'heldout', row % 2, 'a cat') for row in (6, 7)]  # two rows of one image

    with pytest.raises(ValueError, match=r"attack 'a': the image of heldout row 7 has two targets, 'cat' and 'dog'"):
        poison_table({'a': TwoTargets(count=1)}, captioned_pool())


def test_poisons_are_those_of_earlier_releases() -> None:
    """These digests are stored in caches and checkpoints, so they must not depend on process, machine or release."""
    attacks = {'a': BadNet('cat', 4, count=9), 'b': TargetedPoison(4, copies=3)}
    table, manifest = poison_table(attacks, captioned_pool())
    assert (manifest.digest, table.fingerprint) == ('0cd03115f7658b33', '8ecd0bb1021a9159')
