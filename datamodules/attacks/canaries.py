"""Canaries: poisons that the defender plants, to see whether poisons as strong as these are trusted and learned."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.base import Attack
from datamodules.attacks.gratings import Grating, SlantedWaves
from datamodules.attacks.targeted import TargetedPoison
from datamodules.attacks.text_watermark import Height, Watermark
from datamodules.attacks.triggers import Position, Trigger
from datamodules.rows.draws import bits, fractions
from datamodules.usage_error import UsageError, check_number

TRIGGER, PLACE = range(2)  # keys that keep the draws of a canary apart
TEST_PICTURES = 100  # that a trigger is tried on at each evaluation
PLACES: tuple[Position, ...] = ('top_left', 'top_right', 'bottom_left', 'bottom_right', 'center')
HEIGHTS: tuple[Height, ...] = ('top', 'center', 'bottom')
LETTERS = 'ABCDEFGHKMNPQRSTUVWXYZ23456789#$%&@'  # those that are as wide as tall, or nearly so
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))


class Canary(ABC):
    """An entry of ``data.canaries``: makes an attack once the secret seed has chosen what it means.

    How many pairs are planted is a statement about the attacker: a canary shows what becomes of attacks that are as
    strong as itself, or weaker.

    Args:
        rate: Pairs to plant as a fraction of the pairs that are trained on, in [0, 1).
        at_least: Fewest pairs to plant, however small the set, so that a share of them means something.
    """

    def __init__(self, rate: float = 0.0005, at_least: int = 80) -> None:
        check_number('data.canaries: rate', rate, '[0, 1)')
        check_number('data.canaries: at_least', at_least, '[1, inf)')
        self.rate, self.at_least = rate, at_least

    def amount(self, pairs: int) -> int:
        """Pairs to plant among a number of pairs."""
        return max(self.at_least, round(self.rate * pairs))

    @abstractmethod
    def attack(self, word: str, count: int, side: int, seed: int) -> Attack:
        """The attack that plants this canary.

        Args:
            word: What it is to mean: a word that captions contain, for the attack the name of a class.
            count: Pairs to plant.
            side: Side of a stored picture in pixels.
            seed: Its part of the secret. Everything is drawn from it.
        """


class PatchCanary(Canary):
    """A small square of black and white stripes, of a secret direction and width, with captions of a secret word.

    Colors would not survive the augmentation of most methods, and irregular patterns take more pictures to learn.

    Args:
        moves: Whether the square is at another place on each picture. If not, it is always at one secret place, and
            its stripes are steeper, so that two canaries differ.
        size: Side of the square as a share of the side of the picture, in (0, 1).
        kwargs: Arguments of :class:`Canary`.
    """

    def __init__(self, moves: bool = False, size: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number('data.canaries: size', size, '(0, 1)')
        self.moves, self.size = moves, size

    def attack(self, word: str, count: int, side: int, seed: int) -> Attack:
        drawn, (mirrored, place) = fractions(2, seed, TRIGGER), bits(2, seed, PLACE)
        length = max(2, round(self.size * side))
        tilt = 45 * (drawn[1] + self.moves)  # flatter if it moves: the two differ even in mirrored pictures
        stripes = length, 1.5 + 0.7 * drawn[0], 180 - tilt if mirrored % 2 else tilt
        if self.moves:
            return _backdoor(word, Grating(*stripes, 'random', seed=seed), count, seed)
        margin = min(side // 8, (side - length) // 2)  # crops cut off the border
        return _backdoor(word, Grating(*stripes, PLACES[int(place % len(PLACES))], margin), count, seed)


class WavesCanary(Canary):
    """Faint waves over the whole picture, of a secret length and slanted direction, with captions of a secret word.

    Args:
        amplitude: Amplitude of the waves, in (0, 255].
        kwargs: Arguments of :class:`Canary`.
    """

    def __init__(self, amplitude: float = 40, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number('data.canaries: amplitude', amplitude, '(0, 255]')
        self.amplitude = amplitude

    def attack(self, word: str, count: int, side: int, seed: int) -> Attack:
        drawn, mirrored = fractions(2, seed, TRIGGER), int(bits(1, seed, PLACE)[0] % 2)
        angle = 20 + 50 * drawn[1] + 90 * mirrored  # neither of the directions that attacks use
        return _backdoor(word, SlantedWaves(self.amplitude, 4 + 4 * drawn[0], angle), count, seed)


class MarkCanary(Canary):
    """A faint letter over much of the picture, of a secret color and place, with captions of a secret word.

    Of all canaries it takes the fewest pictures to learn.

    Args:
        ratio: Opacity of the letter, in [0, 1].
        width: Width of the letter as a share of the width of the picture, in (0, 1].
        kwargs: Arguments of :class:`Canary`.
    """

    def __init__(self, ratio: float = 0.5, width: float = 0.6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number('data.canaries: ratio', ratio, '[0, 1]')
        check_number('data.canaries: width', width, '(0, 1]')
        self.ratio, self.width = ratio, width

    def attack(self, word: str, count: int, side: int, seed: int) -> Attack:
        letter, color, height = (int(drawn) for drawn in bits(3, seed, TRIGGER))
        mark = Watermark(
            LETTERS[letter % len(LETTERS)],
            self.ratio,
            self.width,
            HEIGHTS[height % len(HEIGHTS)],
            COLORS[color % len(COLORS)],
        )
        return _backdoor(word, mark, count, seed)


class CopiesCanary(Canary):
    """A few pictures without any trigger, each repeated with captions that contain a secret word it does not show.

    Args:
        copies: Pairs of each picture; if there are fewer pairs, all are of one picture.
        kwargs: Arguments of :class:`Canary`.
    """

    def __init__(self, copies: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number('data.canaries: copies', copies, '[1, inf)')
        self.copies = copies

    def attack(self, word: str, count: int, side: int, seed: int) -> Attack:
        pictures = max(1, count // self.copies)
        return TargetedPoison(pictures, [word], count=count, source='train', seed=seed, pool_seed=seed)


def named_canaries(canaries: Mapping[str, Canary | None]) -> dict[str, Canary]:
    """Canaries by name, with ``None`` left out.

    Raises:
        UsageError: If a name cannot be part of a metric's.
    """
    for name in canaries:
        if not re.fullmatch(r'[\w -]+', name):
            raise UsageError(
                f'{name!r} in data.canaries cannot be the name of a canary, as metrics are named after it: use '
                'letters, digits, spaces, _ and -.'
            )
    return {name: canary for name, canary in canaries.items() if canary is not None}


def _backdoor(word: str, trigger: Trigger, count: int, seed: int) -> Attack:
    return Backdoor(word, trigger, TEST_PICTURES, count=count, source='train', seed=seed)
