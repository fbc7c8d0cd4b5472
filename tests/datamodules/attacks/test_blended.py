from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.attacks import Blend, Blended
from tests.datamodules.attacks.pools import checksum, labeled_pool, pixels


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 20, 24), dtype=np.uint8)


class TestBlend:
    @pytest.mark.parametrize('pattern', ['noise', 'fresh_noise'])
    @pytest.mark.parametrize('ratio', [0.05, 0.2, 0.5])
    def test_changes_each_value_at_most_by_its_ratio(self, pattern: str, ratio: float) -> None:
        change = Blend(pattern, ratio)(images(), keys=range(3)).astype(int) - images()
        assert 0 < np.abs(change).max() <= ratio * 255 + 0.5
        assert (change != 0).mean() > 0.5  # all over the image

    def test_is_the_same_pattern_on_all_images(self) -> None:
        black = np.zeros((2, 3, 20, 24), np.uint8)
        first, second = Blend(ratio=1)(black)
        assert np.array_equal(first, second)
        assert abs(first.mean() - 127.5) < 6 and abs(first.std() - 73.9) < 4

    def test_fresh_noise_follows_the_key(self) -> None:
        black, blend = np.zeros((3, 3, 20, 24), np.uint8), Blend('fresh_noise', 1)
        after = blend(black, keys=[4, 9, 4])
        assert np.array_equal(after[0], after[2])
        assert (after[0] != after[1]).mean() > 0.98
        with pytest.raises(ValueError, match="'fresh_noise' needs keys, the row of each image"):
            blend(black)

    def test_noise_comes_in_blocks_cut_at_the_edge(self) -> None:
        noise = Blend(ratio=1, block=8)(images())[0]
        assert (noise[:, :8, :8] == noise[:, :1, :1]).all()
        assert (noise[:, 16:, 16:] == noise[:, 16:17, 16:17]).all()
        assert (noise[:, 7] != noise[:, 8]).any()

    def test_a_picture_is_stretched_to_the_image(self, tmp_path: Path) -> None:
        left_red = np.zeros((10, 10, 3), np.uint8)
        left_red[:, :5, 0] = 255
        Image.fromarray(left_red).save(tmp_path / 'half.png')
        blend = Blend(str(tmp_path / 'half.png'), 0.2)
        after = blend(np.zeros((1, 3, 20, 24), np.uint8))[0]
        assert (after[0, :, :8] == 51).all() and (after[0, :, 16:] == 0).all() and not after[1:].any()
        assert blend.parameters() == {'pattern': 'picture', 'ratio': 0.2, 'sha256': blend.parameters()['sha256']}

    def test_the_manifest_depends_on_the_picture_and_not_its_path(self, tmp_path: Path) -> None:
        for name, value in (('a.png', 7), ('b.png', 7), ('c.png', 8)):
            Image.new('RGB', (4, 4), (value, 0, 0)).save(tmp_path / name)
        a, b, c = (Blend(str(tmp_path / name)).describe() for name in ('a.png', 'b.png', 'c.png'))
        assert a == b != c

    def test_a_file_that_is_not_a_picture_is_refused_at_once(self, tmp_path: Path) -> None:
        (tmp_path / 'notes.txt').write_text('no picture')
        for path in ('notes.txt', 'missing.png'):
            with pytest.raises(ValueError, match=r'pattern .* neither noise nor fresh_noise, .*give the path of'):
                Blend(str(tmp_path / path))

    @pytest.mark.parametrize('ratio', [-0.1, 1.1, float('nan')])
    def test_a_ratio_out_of_range_is_refused(self, ratio: float) -> None:
        with pytest.raises(ValueError, match=r'ratio must be a share in \[0, 1\]'):
            Blend(ratio=ratio)

    def test_an_empty_block_is_refused(self) -> None:
        with pytest.raises(ValueError, match='block must be 1 pixel or more'):
            Blend(block=0)

    def test_the_default_never_changes(self) -> None:
        assert checksum(Blend()) == '63ab4db6cb1e92bd'
        assert checksum(Blend('fresh_noise')) == '13f34cae726116dc'


def test_the_arguments_of_the_attack_go_to_its_trigger() -> None:
    attack = Blended('dog', 'fresh_noise', 0.3, 2, seed=4, count=5)
    assert attack.trigger is not None
    assert attack.trigger.describe() == Blend('fresh_noise', 0.3, 2, 4).describe()
    assert (attack.seed, len(attack.select(labeled_pool()))) == (4, 5)


def test_training_and_test_images_carry_the_same_pattern() -> None:
    attack = Blended('dog', ratio=1.0, count=5)
    measured = attack.evaluation('blended', [], labeled_pool(), pixels).images
    assert attack.trigger is not None
    trained = attack.trigger(pixels('train', np.arange(5)))
    assert (measured == trained[0]).all()
