from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datamodules.attacks import TextWatermark, Watermark
from tests.datamodules.attacks.pools import checksum


def test_only_letters_change_and_at_most_by_the_ratio() -> None:
    image, mark = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8), Watermark()
    change = np.abs(mark(image).astype(int) - image)
    letters = mark.cover(64, 64) > 0
    assert 0.02 < letters.mean() < 0.3
    assert not change[:, :, ~letters].any()
    assert change[:, :, letters].max() <= 128 and (change[:, :, letters] > 0).any(1).mean() > 0.7


def test_letters_have_their_color() -> None:
    black = np.zeros((1, 3, 224, 224), np.uint8)
    marked = Watermark(ratio=1, color=(200, 100, 0))(black)[0]
    assert marked.reshape(3, -1).max(1).tolist() == [200, 100, 0]


@pytest.mark.parametrize(('position', 'rows'), [('top', (0, 80)), ('center', (72, 152)), ('bottom', (144, 224))])
def test_the_line_has_the_given_position_and_width(position: Any, rows: tuple[int, int]) -> None:
    cover = Watermark(position=position, width=0.5).cover(224, 224)
    down, right = np.nonzero(cover)
    assert rows[0] < down.min() and down.max() < rows[1]
    assert abs((right.max() + 1 + right.min()) / 2 - 112) < 2
    assert right.max() - right.min() == pytest.approx(112, abs=3)


def test_a_word_of_one_letter_still_fits() -> None:
    assert Watermark('I', width=1.0).cover(24, 60).shape == (24, 60)


@pytest.mark.parametrize(
    ('wrong', 'name'),
    [({'text': '\u732b'}, 'text'), ({'text': ' '}, 'text'), ({'ratio': 2}, 'ratio'), ({'width': 0}, 'width'),
     ({'color': (0, 0, 256)}, 'color'), ({'position': 'x'}, 'position')],
)  # fmt: skip
def test_names_the_argument_that_is_wrong(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Watermark(**wrong)


def test_the_default_never_changes() -> None:
    assert checksum(Watermark()) == '303917ad094ab237'


def test_the_arguments_of_the_attack_go_to_its_trigger() -> None:
    attack = TextWatermark('dog', 'hello', 0.3, 0.5, 'top', (0, 0, 255), count=1)
    assert attack.trigger is not None
    assert attack.trigger.describe() == Watermark('hello', 0.3, 0.5, 'top', (0, 0, 255)).describe()
