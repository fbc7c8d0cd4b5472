from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.attacks import Manifest, Patch, Poison
from tests.datamodules.attacks.pools import labeled_pool

POISONS = {
    'first': [Poison(3, 'heldout', 1, 'a dog'), Poison(9, 'train', 1, 'dogs', replaces=9)],
    'second': [Poison(4, 'heldout', 0, 'a cat'), Poison(4, 'heldout', 0, 'cats')],
}


def manifest(poisons: dict[str, list[Poison]] = POISONS, size: int = 4) -> Manifest:
    return Manifest.of(poisons, {'first': Patch(size), 'second': None}, labeled_pool(train=200))


def test_appended_rows_follow_the_clean_ones_in_order() -> None:
    assert manifest().rows().tolist() == [200, 9, 201, 202]
    assert manifest().rows('second').tolist() == [201, 202]
    assert manifest().rows('third').tolist() == []


def test_a_line_says_everything_about_a_poison() -> None:
    line = manifest().table.to_pylist()[1]
    assert line.pop('hash')
    assert json.loads(line.pop('trigger')) == {'kind': 'Patch', **Patch(4).parameters()}
    assert line == {
        'row': 9, 'attack': 'first', 'target': 1, 'target_class': 'dog', 'origin': 'train', 'source': 9,
        'caption': 'dogs',
    }  # fmt: skip


def test_poisons_are_returned_as_selected() -> None:
    assert {attack: manifest().poisons(attack) for attack in manifest().attacks} == POISONS


def test_the_digest_depends_on_the_content() -> None:
    fewer = {'first': POISONS['first'], 'second': POISONS['second'][:1]}
    digests = [manifest().digest, manifest(size=5).digest, manifest(fewer).digest, manifest({}).digest]
    assert len(set(digests)) == 4
    assert manifest().digest == digests[0]


def test_the_digest_is_that_of_earlier_releases() -> None:
    assert manifest().digest == '8d5a9c6227efdf89'  # caches and checkpoints carry it


def test_lines_of_the_same_image_and_class_differ_in_their_hash() -> None:
    assert len(set(manifest().table['hash'].to_pylist())) == 4


def test_an_empty_one_has_no_attacks() -> None:
    empty = manifest({})
    assert (len(empty), empty.attacks, empty.rows().tolist()) == (0, (), [])


@pytest.mark.parametrize('poisons', [POISONS, {}], ids=['poisoned', 'clean'])
def test_survives_the_file(tmp_path: Path, poisons: dict[str, list[Poison]]) -> None:
    before = manifest(poisons)
    before.save(tmp_path / 'run' / 'manifest.parquet')
    after = Manifest.load(tmp_path / 'run' / 'manifest.parquet')
    assert after.table.equals(before.table)
    assert (after.clean_rows, after.digest) == (200, before.digest)


def test_a_changed_line_is_detected(tmp_path: Path) -> None:
    manifest().save(tmp_path / 'm.parquet')
    table = pq.read_table(tmp_path / 'm.parquet')
    column = pa.array([7, 9, 201, 202], pa.int64())
    pq.write_table(table.set_column(0, 'row', column), tmp_path / 'm.parquet')
    with pytest.raises(ValueError, match=r'row 7 of manifest .*m\.parquet does not match its hash'):
        Manifest.load(tmp_path / 'm.parquet')


def test_another_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({'caption': ['a']}), tmp_path / 'm.parquet')
    with pytest.raises(ValueError, match='is not a manifest of poisons: its columns are caption'):
        Manifest.load(tmp_path / 'm.parquet')
