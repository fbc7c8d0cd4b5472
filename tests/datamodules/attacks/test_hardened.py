from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.attacks import Hardened, LabelConsistent, Patch, Poison, poison_table
from datamodules.attacks.hardened import HardenedPictures
from tests.datamodules.attacks.pools import labeled_pool, pixels

SETTINGS = {'norm': 'linf', 'radius': 8.0, 'surrogate': 'ab12'}
ROWS = np.array([1, 6, 11])


def harder(clean: np.ndarray) -> np.ndarray:
    return clean ^ 7


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file for the training images of ``ROWS``."""
    clean = pixels('train', ROWS)
    poisons = [Poison(int(row), 'train', 1, 'a dog') for row in ROWS]
    path = tmp_path / 'made' / 'dogs.npz'
    HardenedPictures.of(clean, harder(clean), poisons, SETTINGS).save(path)
    return str(path)


class TestHardened:
    def test_replaces_each_picture_by_its_hardened_version(self, file: str) -> None:
        replaced = Hardened(file)(pixels('train', ROWS[::-1]), keys=[7, 8, 9])
        assert np.array_equal(replaced, harder(pixels('train', ROWS[::-1])))
        assert Hardened(file)(pixels('train', ROWS[:0])).shape == (0, 3, 12, 12)

    def test_a_picture_missing_from_the_file_is_refused(self, file: str) -> None:
        with pytest.raises(ValueError, match=r'lacks 2 of 3 pictures of the attack .* make it again with clipward har'):
            Hardened(file)(pixels('train', np.array([6, 7, 8])))

    def test_another_stored_size_is_refused(self, file: str) -> None:
        with pytest.raises(ValueError, match=r'lacks 3 of 3 .*other pictures, or another data\.cache_size'):
            Hardened(file)(pixels('train', ROWS)[..., 1:, 1:])

    def test_is_described_by_its_pixels_and_settings(self, file: str, tmp_path: Path) -> None:
        described = Hardened(file).parameters()
        assert described == {**SETTINGS, 'sha256': described['sha256']}
        clean, poisons = pixels('train', ROWS), [Poison(0, 'train', 1, '')] * 3
        HardenedPictures.of(clean, clean, poisons, SETTINGS).save(tmp_path / 'other.npz')
        assert Hardened(str(tmp_path / 'other.npz')).describe() != Hardened(file).describe()

    def test_the_file_says_which_images_it_holds(self, file: str) -> None:
        content = HardenedPictures.load(file)
        assert content.source.tolist() == ROWS.tolist() and set(content.origin.tolist()) == {'train'}

    @pytest.mark.parametrize('content', [b'', b'no file of arrays', b'PK\x03\x04broken'])
    def test_a_file_of_another_kind_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / 'x.npz').write_bytes(content)
        with pytest.raises(ValueError, match=r"hardened '.*x\.npz' is not a file of clipward harden"):
            Hardened(str(tmp_path / 'x.npz')).describe()

    def test_a_file_of_other_arrays_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / 'x.npz', picture=np.zeros(3))
        np.save(tmp_path / 'y.npy', np.zeros(3))
        for name in ('x.npz', 'y.npy'):
            with pytest.raises(ValueError, match='is not a file of clipward harden'):
                Hardened(str(tmp_path / name)).describe()


class TestLabelConsistent:
    def attack(self, file: str | None, count: int = 3) -> LabelConsistent:
        return LabelConsistent('dog', 3, harden='pgd', hardened=file, count=count, source='train', mode='replace')

    def test_training_pictures_are_hardened_and_patched_and_test_pictures_only_patched(self, file: str) -> None:
        attack, pool = self.attack(file), labeled_pool(train=15)
        assert attack.trigger is not None
        assert np.array_equal(attack.trigger(pixels('train', ROWS)), Patch(3)(harder(pixels('train', ROWS))))
        replaced = attack.evaluation('lc', [], pool, pixels)
        rows = np.array([row for row in range(100) if row % 5 != 1])
        assert np.array_equal(replaced.images, Patch(3)(pixels('heldout', rows)))

    def test_the_manifest_distinguishes_it_from_an_attack_on_plain_images(self, file: str) -> None:
        plain = LabelConsistent('dog', 3, count=3, source='train', mode='replace')
        hardened, soft = (poison_table({'lc': a}, labeled_pool(train=15))[1] for a in (self.attack(file), plain))
        assert hardened.table['source'] == soft.table['source']
        assert hardened.digest != soft.digest
        assert all(
            Hardened(file).parameters()['sha256'] in trigger for trigger in hardened.table['trigger'].to_pylist()
        )

    def test_a_missing_file_is_reported_when_the_data_is_set_up(self, tmp_path: Path) -> None:
        attack = self.attack(str(tmp_path / 'none.npz'))
        with pytest.raises(ValueError, match=r"hardened '.*none\.npz' does not exist: make it with clipward harden"):
            poison_table({'lc': attack}, labeled_pool(train=15))

    def test_hardening_needs_a_path(self) -> None:
        with pytest.raises(ValueError, match=r'^hardened must be the path of a file that clipward harden makes'):
            self.attack(None)

    def test_without_hardening_the_path_is_ignored(self) -> None:
        soft = LabelConsistent('dog', 3, harden='none', hardened='nowhere.npz', count=3)
        assert isinstance(soft.trigger, Patch)
