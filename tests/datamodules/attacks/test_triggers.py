from __future__ import annotations

import hashlib
import json
from typing import get_args

import numpy as np
import pytest
import torch

from datamodules.attacks import Blend, Chain, PhotoFilter, StripedSheet, Unchanged, Warp, Watermark, Waves
from datamodules.attacks.triggers import Images, Patch, Pattern, Position, Trigger, mix, wrap_to_bytes
from tests.datamodules.attacks.pools import gradient

PATTERNS, POSITIONS = get_args(Pattern), get_args(Position)
PER_IMAGE_PATTERNS = ('gaussian', 'gaussian_wrapped')
TRIGGERS: dict[str, Trigger] = {
    'patch': Patch(5),
    'random places': Patch(5, position='random'),
    'corners': Patch(5, 'stripes', 2, 'four_corners'),
    'faint patch': Patch(5, amplitude=0.2),
    'own noise': Patch(5, 'gaussian'),
    'blend': Blend(),
    'fresh noise': Blend('fresh_noise', block=3),
    'warp': Warp(),
    'jitter': Warp(None, 1.0),
    'noisy warp': Warp(noise=True),
    'waves': Waves(),
    'mixed waves': Waves(60, ratio=0.2),
    'stripes': StripedSheet(2, 'horizontal'),
    'words': Watermark('hi'),
    'filter': PhotoFilter(),
    'chain': Chain([Warp(), Blend(), Patch(5)]),
}


def images(count: int = 4, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


class Invert(Trigger):
    """A minimal trigger."""

    def stamp(self, images: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        images[...] = 255 - images
        return images

    def parameters(self) -> dict[str, int | float | str]:
        return {}


class TestTrigger:
    def test_a_new_trigger_needs_only_stamp_and_parameters(self) -> None:
        assert np.array_equal(Invert()(Invert()(images())), images())
        assert json.loads(Invert().describe()) == {'kind': 'Invert'}

    @pytest.mark.parametrize('given', [images(), torch.from_numpy(images())], ids=['array', 'tensor'])
    def test_returns_the_type_it_was_given_and_does_not_change_its_input(self, given: Images) -> None:
        before = np.asarray(given).copy()
        after = Patch(size=4)(given)
        assert type(after) is type(given)
        assert after.dtype == given.dtype
        assert np.array_equal(np.asarray(given), before)
        assert not np.array_equal(np.asarray(after), before)

    def test_accepts_a_read_only_memory_map(self) -> None:
        given = images()
        given.setflags(write=False)
        assert not np.array_equal(Patch(size=4)(given), given)

    @pytest.mark.parametrize(
        'wrong', [images()[0], images().astype(np.float32), images()[:, :1], torch.zeros(1, 3, 8, 8)]
    )
    def test_anything_but_a_batch_of_uint8_images_is_refused(self, wrong: Images) -> None:
        with pytest.raises(ValueError, match=r'needs uint8 images \(B, 3, H, W\), got .*\(.*\)'):
            Patch(size=4)(wrong)

    def test_accepts_an_empty_batch(self) -> None:
        assert Patch(size=4)(images(0)).shape == (0, 3, 24, 32)


@pytest.mark.parametrize('trigger', TRIGGERS.values(), ids=TRIGGERS)
class TestEveryTrigger:
    def test_changes_pixels_but_not_shape_dtype_or_its_input(self, trigger: Trigger) -> None:
        before = images()
        after = trigger(before, keys=range(4))
        assert (after.shape, after.dtype) == (before.shape, np.uint8)
        assert all((one != other).any() for one, other in zip(before, after, strict=True))
        assert np.array_equal(before, images())

    def test_is_the_same_for_arrays_and_tensors_together_and_one_by_one(self, trigger: Trigger) -> None:
        together = trigger(images(), keys=[3, 1, 2, 0])
        assert np.array_equal(trigger(torch.from_numpy(images()), keys=[3, 1, 2, 0]).numpy(), together)
        apart = [trigger(images()[i : i + 1], keys=[key]) for i, key in enumerate([3, 1, 2, 0])]
        assert np.array_equal(np.concatenate(apart), together)

    def test_accepts_an_empty_batch_with_keys(self, trigger: Trigger) -> None:
        assert trigger(images(0), keys=[]).shape == (0, 3, 24, 32)

    def test_keeps_white_no_darker_than_black(self, trigger: Trigger) -> None:
        black, white = (trigger(np.full((1, 3, 24, 32), value, np.uint8), keys=[5]) for value in (0, 255))
        assert (black <= white).all()  # not where what leaves the range wraps around

    def test_has_a_description_in_json(self, trigger: Trigger) -> None:
        assert json.loads(trigger.describe())['kind'] == type(trigger).__name__


@pytest.mark.parametrize(
    'trigger',
    [Patch(5, amplitude=0), Blend(ratio=0), Warp(strength=0), Waves(0), Waves(ratio=0), StripedSheet(ratio=0),
     Watermark('hi', ratio=0), Unchanged()],
    ids=lambda trigger: type(trigger).__name__,
)  # fmt: skip
def test_strength_0_returns_the_image(trigger: Trigger) -> None:
    assert np.array_equal(trigger(images()), images())


class TestMixed:
    def test_is_the_formula_rounded(self) -> None:
        given, pattern = images(), np.full((3, 1, 1), 127.5)
        exact = 0.8 * given.astype(float) + 0.2 * 127.5
        assert np.abs(mix(given.copy(), pattern, 0.2) - exact).max() <= 0.5 + 1e-4
        assert mix(np.array([[[[0, 255]]]], np.uint8), np.array([127.5]), 0.2).ravel().tolist() == [26, 230]

    def test_ratio_0_is_the_image_ratio_1_the_pattern_and_values_stay_in_range(self) -> None:
        pattern = images(1)[0]
        assert np.array_equal(mix(images(), pattern, 0), images())
        assert np.array_equal(mix(images(), pattern, 1)[2], pattern)
        assert mix(images(1), np.array(-1000), 0.5).max() == 0
        assert mix(images(1), np.array(1000), 0.5).min() == 255


def test_values_wrap_around_as_in_published_files() -> None:
    values = np.array([-1.0, -0.5, -0.1, 1.1, 1.5, 2.0, 0.9])
    assert wrap_to_bytes(values).tolist() == [1, 129, 231, 24, 126, 254, 229]
    assert wrap_to_bytes(np.arange(256) / 255).tolist() == list(range(256))


def test_the_reference_image_is_the_published_one() -> None:
    assert gradient().sum((0, 2, 3)).tolist() == [6_372_576, 6_372_576, 6_495_232]


class TestPatch:
    @pytest.mark.parametrize('pattern', [pattern for pattern in PATTERNS if pattern not in PER_IMAGE_PATTERNS])
    @pytest.mark.parametrize('position', [position for position in POSITIONS if position != 'four_corners'])
    def test_changes_its_own_square_and_no_other_pixel(self, pattern: Pattern, position: Position) -> None:
        patch = Patch(6, pattern, 3, position, margin=2, seed=5)
        before = images()
        after = patch(before, keys=range(4))
        (corners,) = patch.corners(before.shape, 6, np.arange(4))
        for one, other, (y, x) in zip(before, after, corners, strict=True):
            assert np.array_equal(other[:, y : y + 6, x : x + 6], patch.pixels)
            other[:, y : y + 6, x : x + 6] = one[:, y : y + 6, x : x + 6]
            assert np.array_equal(one, other)

    @pytest.mark.parametrize(
        ('position', 'corner'),
        [('top_left', (0, 0)), ('top_right', (0, 208)), ('bottom_left', (208, 0)), ('bottom_right', (208, 208)),
         ('center', (104, 104))],
    )  # fmt: skip
    def test_sits_at_its_position(self, position: Position, corner: tuple[int, int]) -> None:
        black = np.zeros((1, 3, 224, 224), np.uint8)
        marked = np.argwhere(Patch(16, 'solid', position=position)(black)[0, 0])
        assert tuple(marked.min(0)) == corner
        assert tuple(marked.max(0)) == (corner[0] + 15, corner[1] + 15)

    def test_the_margin_keeps_it_inside_a_center_crop(self) -> None:
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
        (corners,) = Patch(16, position='random').corners((20_000, 3, 224, 224), 16, np.arange(20_000))
        top, left = corners.T
        for places in (top, left):
            assert (places.min(), places.max()) == (0, 208)
            assert abs(places.mean() - 104) < 2
        assert abs(np.corrcoef(top, left)[0, 1]) < 0.03

    def test_random_places_need_keys(self) -> None:
        with pytest.raises(ValueError, match=r"'random' needs keys, the row of each image"):
            Patch(4, position='random')(images())

    def test_the_default_patch_never_changes(self) -> None:
        assert Patch().parameters() == {
            'size': 16, 'pattern': 'noise', 'block': 4, 'position': 'bottom_right', 'margin': 0, 'seed': 0,
            'sha256': '119cf0f7ae641c86',
        }  # fmt: skip
        assert hashlib.sha256(Patch().pixels.tobytes()).hexdigest()[:16] == '119cf0f7ae641c86'

    @pytest.mark.parametrize(('pattern', 'sha256'), [('blocks', '3728b3b9e2980c62'), ('stripes', 'fea4775a8b965153')])
    def test_seeded_patterns_never_change(self, pattern: Pattern, sha256: str) -> None:
        assert hashlib.sha256(Patch(pattern=pattern).pixels.tobytes()).hexdigest()[:16] == sha256

    def test_noise_is_uniform_and_another_seed_is_another_patch(self) -> None:
        pixels = Patch(64).pixels
        assert abs(pixels.mean() - 127.5) < 2
        assert abs(pixels.std() - 73.9) < 1.5
        assert (pixels != Patch(64, seed=1).pixels).mean() > 0.98

    def test_blocks_are_of_one_color_and_cut_at_the_edge(self) -> None:
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

    def test_stripes_are_columns_of_one_color(self) -> None:
        stripes = Patch(16, 'stripes', block=2).pixels
        assert (stripes == stripes[:, :1]).all()
        assert (stripes[..., ::2] == stripes[..., 1::2]).all()
        assert len(np.unique(stripes[:, 0], axis=1).T) == 8

    @pytest.mark.parametrize('pattern', ['noise', 'gaussian'])
    def test_four_corners_hold_the_same_patch(self, pattern: Pattern) -> None:
        after = Patch(5, pattern, position='four_corners', margin=1)(images(), keys=range(4))
        corners = [after[..., y : y + 5, x : x + 5] for y in (1, 18) for x in (1, 26)]
        assert all(np.array_equal(corner, corners[0]) for corner in corners)
        inside = np.ones((24, 32), bool)
        for y in (1, 18):
            for x in (1, 26):
                inside[y : y + 5, x : x + 5] = False
        assert np.array_equal(after[:, :, inside], images()[:, :, inside])

    @pytest.mark.parametrize('pattern', PER_IMAGE_PATTERNS)
    def test_per_image_noise_follows_the_key_and_stays_in_its_square(self, pattern: Pattern) -> None:
        patch, same = Patch(6, pattern), np.full((3, 3, 24, 24), 90, np.uint8)
        after = patch(same, keys=[4, 9, 4])
        assert np.array_equal(after[0], after[2])
        assert (after[0, :, -6:, -6:] != after[1, :, -6:, -6:]).mean() > 0.5
        after[..., -6:, -6:] = 90
        assert np.array_equal(after, same)
        assert patch.pixels is None and 'sha256' not in patch.parameters()

    def test_gaussian_noise_is_nearly_uniform_when_wrapped_and_not_when_clipped(self) -> None:
        gray = np.full((40, 3, 16, 16), 115, np.uint8)  # 0.45: the mean of photos
        wrapped_, cut = (Patch(16, pattern)(gray, keys=range(40)) for pattern in ('gaussian_wrapped', 'gaussian'))
        assert abs(wrapped_.mean() - 127.3) < 1.5 and abs(wrapped_.std() - 74.0) < 1
        assert abs(((cut == 0) | (cut == 255)).mean() - 0.6175) < 0.02  # out of range
        assert (cut == 0).mean() > (cut == 255).mean() > 0.27

    def test_per_image_noise_needs_keys(self) -> None:
        with pytest.raises(ValueError, match="'gaussian' needs keys, the row of each image"):
            Patch(4, 'gaussian')(images())

    def test_amplitude_bounds_the_change_and_1_is_opaque(self) -> None:
        before, faint = images(), Patch(6, amplitude=32 / 255)
        assert np.abs(faint(before).astype(int) - before).max() == 32
        assert np.array_equal(Patch(6, amplitude=1.0)(before), Patch(6)(before))
        assert faint.parameters()['amplitude'] == 32 / 255

    def test_amplitude_on_black_and_white_adds_or_subtracts_and_clips(self) -> None:
        patch, before = Patch(6, 'checker', 1, amplitude=0.25), images().astype(int)
        sign = np.where(patch.pixels == 255, 64, -64)
        expected = np.clip(before[..., -6:, -6:] + sign, 0, 255)
        assert np.array_equal(patch(images())[..., -6:, -6:], expected)

    def test_names_both_sizes_if_it_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match='patch of 16 pixels with a margin of 5 does not fit 24 x 32 images: give'):
            Patch(margin=5)(images())

    @pytest.mark.parametrize(
        'wrong',
        [{'size': 0}, {'block': 0}, {'margin': -1}, {'pattern': 'x'}, {'position': 'x'},
         {'amplitude': 1.5}, {'amplitude': -0.1}],
    )  # fmt: skip
    def test_refuses_meaningless_values(self, wrong: dict[str, int | str]) -> None:
        with pytest.raises(ValueError, match='must be'):
            Patch(**wrong)
