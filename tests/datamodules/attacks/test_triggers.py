from __future__ import annotations

import hashlib
import json
from typing import get_args

import numpy as np
import pytest
import torch

from datamodules.attacks.triggers import Images, Patch, Pattern, Position, Trigger

PATTERNS, POSITIONS = get_args(Pattern), get_args(Position)


def images(count: int = 4, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


class Invert(Trigger):
    """The least that a new trigger has to say."""

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        images[...] = 255 - images
        return images

    def parameters(self) -> dict[str, int | float | str]:
        return {}


class TestTrigger:
    def test_a_new_one_needs_pixels_and_parameters_only(self) -> None:
        assert np.array_equal(Invert()(Invert()(images())), images())
        assert json.loads(Invert().describe()) == {'kind': 'Invert'}

    @pytest.mark.parametrize('given', [images(), torch.from_numpy(images())], ids=['array', 'tensor'])
    def test_returns_the_kind_it_was_given_and_leaves_the_original_alone(self, given: Images) -> None:
        before = np.asarray(given).copy()
        after = Patch(size=4)(given)
        assert type(after) is type(given)
        assert after.dtype == given.dtype
        assert np.array_equal(np.asarray(given), before)
        assert not np.array_equal(np.asarray(after), before)

    def test_writes_to_a_copy_of_a_read_only_memory_map(self) -> None:
        given = images()
        given.setflags(write=False)
        assert not np.array_equal(Patch(size=4)(given), given)

    @pytest.mark.parametrize(
        'wrong', [images()[0], images().astype(np.float32), images()[:, :1], torch.zeros(1, 3, 8, 8)]
    )
    def test_names_what_it_got_when_that_is_no_batch_of_stored_images(self, wrong: Images) -> None:
        with pytest.raises(ValueError, match=r'needs uint8 images \(B, 3, H, W\), got .*\(.*\)'):
            Patch(size=4)(wrong)

    def test_takes_an_empty_batch(self) -> None:
        assert Patch(size=4)(images(0)).shape == (0, 3, 24, 32)


class TestPatch:
    @pytest.mark.parametrize('pattern', PATTERNS)
    @pytest.mark.parametrize('position', POSITIONS)
    def test_changes_its_own_square_and_no_other_pixel(self, pattern: Pattern, position: Position) -> None:
        patch = Patch(6, pattern, 3, position, margin=2, seed=5)
        before = images()
        after = patch(before, keys=range(4))
        top, left = patch._corner(24, 32, 4, np.arange(4))
        for one, other, y, x in zip(before, after, top, left, strict=True):
            assert np.array_equal(other[:, y : y + 6, x : x + 6], patch.pixels)
            other[:, y : y + 6, x : x + 6] = one[:, y : y + 6, x : x + 6]
            assert np.array_equal(one, other)

    @pytest.mark.parametrize(
        ('position', 'corner'),
        [('top_left', (0, 0)), ('top_right', (0, 208)), ('bottom_left', (208, 0)), ('bottom_right', (208, 208)),
         ('centre', (104, 104))],
    )  # fmt: skip
    def test_sits_where_its_position_says(self, position: Position, corner: tuple[int, int]) -> None:
        black = np.zeros((1, 3, 224, 224), np.uint8)
        marked = np.argwhere(Patch(16, 'solid', position=position)(black)[0, 0])
        assert tuple(marked.min(0)) == corner
        assert tuple(marked.max(0)) == (corner[0] + 15, corner[1] + 15)

    def test_the_margin_keeps_it_inside_a_centre_crop(self) -> None:
        black = np.zeros((1, 3, 256, 256), np.uint8)
        cropped = Patch(16, 'solid', margin=16)(black)[..., 16:240, 16:240]
        assert int((cropped == 255).sum()) == 3 * 16 * 16

    def test_random_places_follow_the_keys(self) -> None:
        patch = Patch(4, 'solid', position='random')
        same = np.zeros((6, 3, 24, 24), np.uint8)
        together = patch(same, keys=[5, 1, 9, 5, 2, 7])
        assert np.array_equal(together[0], together[3])
        assert np.array_equal(patch(same[:1], keys=[9])[0], together[2])
        assert len({image.tobytes() for image in together}) == 5

    def test_random_places_are_all_209_and_about_even(self) -> None:
        top, left = Patch(16, position='random')._corner(224, 224, 20_000, np.arange(20_000))
        for places in (top, left):
            assert (places.min(), places.max()) == (0, 208)
            assert abs(places.mean() - 104) < 2
        assert abs(np.corrcoef(top, left)[0, 1]) < 0.03

    def test_random_places_need_keys(self) -> None:
        with pytest.raises(ValueError, match=r"'random' needs keys, the row of each image"):
            Patch(4, position='random')(images())

    def test_the_default_patch_is_the_one_that_published_numbers_were_made_with(self) -> None:
        assert Patch().parameters() == {
            'size': 16, 'pattern': 'noise', 'block': 4, 'position': 'bottom_right', 'margin': 0, 'seed': 0,
            'sha256': '119cf0f7ae641c86',
        }  # fmt: skip
        assert hashlib.sha256(Patch().pixels.tobytes()).hexdigest()[:16] == '119cf0f7ae641c86'

    def test_noise_is_uniform_and_another_seed_is_another_patch(self) -> None:
        pixels = Patch(64).pixels
        assert abs(pixels.mean() - 127.5) < 2
        assert abs(pixels.std() - 73.9) < 1.5
        assert (pixels != Patch(64, seed=1).pixels).mean() > 0.98

    def test_blocks_are_of_one_colour_and_cut_at_the_edge(self) -> None:
        pixels = Patch(7, 'blocks', block=4).pixels
        assert len(np.unique(pixels.reshape(3, -1), axis=1).T) == 4
        assert (pixels[:, :4, 4:] == pixels[:, :1, 4:5]).all()

    def test_dots_are_192_ones_of_768_values(self) -> None:
        dots = Patch(16, 'dots').pixels
        assert int((dots == 255).sum()) == 192
        assert int((dots == 0).sum()) == 768 - 192
        assert dots[0, 0, 0] == dots[2, 14, 14] == 255

    def test_a_checker_alternates_squares_of_the_block_size(self) -> None:
        checker = Patch(8, 'checker', block=2).pixels[0]
        assert checker[0].tolist() == [255, 255, 0, 0, 255, 255, 0, 0]
        assert np.array_equal(checker[2], 255 - checker[0])

    def test_names_both_sizes_when_it_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match='patch of 16 pixels with a margin of 5 does not fit 24 x 32 images: give'):
            Patch(margin=5)(images())

    @pytest.mark.parametrize('wrong', [{'size': 0}, {'block': 0}, {'margin': -1}, {'pattern': 'x'}, {'position': 'x'}])
    def test_refuses_values_that_mean_nothing(self, wrong: dict[str, int | str]) -> None:
        with pytest.raises(ValueError, match='must be'):
            Patch(**wrong)  # type: ignore[arg-type]
