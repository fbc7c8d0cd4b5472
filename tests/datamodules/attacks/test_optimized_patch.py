from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.attacks import OptimizedPatch, PicturePatch, poison_table
from tests.datamodules.attacks.pools import gradient, labeled_pool, pixels


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 20, 24), dtype=np.uint8)


@pytest.fixture
def picture() -> np.ndarray:
    """uint8 (6, 6, 3)."""
    return np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path, picture: np.ndarray) -> str:
    Image.fromarray(picture).save(tmp_path / 'patch.png')
    return str(tmp_path / 'patch.png')


class TestPicturePatch:
    def test_is_the_picture_and_changes_no_other_pixel(self, file: str, picture: np.ndarray) -> None:
        after, inside = PicturePatch(file, position='bottom_right', margin=2)(images()), np.s_[..., 12:18, 16:22]
        assert (after[inside] == picture.transpose(2, 0, 1)).all()
        after[inside] = images()[inside]
        assert np.array_equal(after, images())

    def test_random_places_follow_the_keys(self, file: str) -> None:
        patch, same = PicturePatch(file, position='random', seed=3), np.zeros((4, 3, 20, 24), np.uint8)
        together = patch(same, keys=[5, 1, 9, 5])
        assert np.array_equal(together[0], together[3])
        assert len({image.tobytes() for image in together}) == 3
        assert np.array_equal(PicturePatch(file, position='random', seed=3)(same[:1], keys=[9])[0], together[2])

    def test_is_resized_to_the_given_size(self, file: str, picture: np.ndarray) -> None:
        black = np.zeros((1, 3, 20, 24), np.uint8)
        smaller = Image.fromarray(picture).resize((4, 4), Image.Resampling.BICUBIC)
        after = PicturePatch(file, 4, 'top_left')(black)
        assert np.array_equal(after[0, :, :4, :4], np.asarray(smaller).transpose(2, 0, 1))
        assert not after[..., 4:, :].any() and not after[..., 4:].any()

    def test_the_manifest_depends_on_its_pixels_and_not_its_path(self, file: str, picture: np.ndarray) -> None:
        Image.fromarray(picture).save(Path(file).with_name('copy.bmp'))
        other = Path(file).with_name('other.png')
        Image.fromarray(255 - picture).save(other)
        copy = PicturePatch(str(Path(file).with_name('copy.bmp')))
        assert PicturePatch(file).describe() == copy.describe() != PicturePatch(str(other)).describe()
        sha256 = hashlib.sha256(picture.transpose(2, 0, 1).tobytes()).hexdigest()
        expected = {'size': 6, 'position': 'center', 'margin': 0, 'seed': 0, 'sha256': sha256}
        assert PicturePatch(file).parameters() == expected

    def test_gray_pictures_are_converted_to_rgb(self, tmp_path: Path) -> None:
        Image.new('L', (5, 5), 77).save(tmp_path / 'gray.png')
        assert (PicturePatch(str(tmp_path / 'gray.png')).pixels == np.full((3, 5, 5), 77)).all()

    def test_is_refused_if_it_does_not_fit_the_image(self, file: str) -> None:
        with pytest.raises(ValueError, match='patch of 6 pixels does not fit 5 x 5 images: give a smaller size'):
            PicturePatch(file)(gradient(5))


class TestFile:
    def test_is_read_only_when_the_data_is_set_up(self, file: str) -> None:
        Path(file).rename(f'{file}.away')
        attack = OptimizedPatch('dog', file, count=5)
        with pytest.raises(
            ValueError, match=r"file '.*patch\.png' does not exist: make it with clipward optimize_patch"
        ):
            poison_table({'patch': attack}, labeled_pool())
        Path(f'{file}.away').rename(file)
        assert len(poison_table({'patch': attack}, labeled_pool())[1]) == 5

    def test_that_is_not_a_picture_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / 'notes.txt').write_text('no picture')
        with pytest.raises(ValueError, match=r"^file '.*notes\.txt' is not a readable picture .*: give the path"):
            PicturePatch(str(tmp_path / 'notes.txt')).describe()

    def test_that_is_not_square_needs_a_size(self, tmp_path: Path) -> None:
        Image.new('RGB', (8, 4)).save(tmp_path / 'wide.png')
        with pytest.raises(ValueError, match='holds 8 x 4 pixels, not a square: give size'):
            PicturePatch(str(tmp_path / 'wide.png')).describe()
        assert PicturePatch(str(tmp_path / 'wide.png'), size=4).pixels.shape == (3, 4, 4)


def test_training_and_test_images_carry_the_patch_of_the_file(file: str, picture: np.ndarray) -> None:
    attack = OptimizedPatch('dog', file, position='top_left', count=5)
    measured = attack.evaluation('patch', [], labeled_pool(), pixels)
    assert attack.trigger is not None and measured.target is not None and (measured.target == 1).all()
    trained = attack.trigger(pixels('train', np.arange(5)))
    for carrier in (trained, measured.images):
        assert (carrier[..., :6, :6] == picture.transpose(2, 0, 1)).all()
    _, manifest = poison_table({'patch': attack}, labeled_pool())
    assert set(manifest.table['trigger'].to_pylist()) == {attack.trigger.describe()}


@pytest.mark.parametrize(
    ('wrong', 'name'), [({'size': 0}, 'size'), ({'margin': -1}, 'margin'), ({'position': 'x'}, 'position')]
)
def test_names_the_argument_that_is_wrong(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f'^{name} must be'):
        OptimizedPatch('dog', 'patch.png', count=1, **wrong)
