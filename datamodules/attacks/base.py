"""What every attack does: choose images, captions and rows for poisoned pairs, and images to measure success on.

An attack is one file: a subclass of :class:`Attack`, or of :class:`datamodules.attacks.backdoor.Backdoor` where
only the trigger is new.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from datamodules.attacks.manifest import Manifest
from datamodules.attacks.pool import AttackPool, Poison
from datamodules.attacks.triggers import Trigger, mix
from datamodules.evaluation.sets import EvaluationSet
from datamodules.rows.draws import bits, permutation
from datamodules.rows.table import Origin
from datamodules.text.prompts import fill_templates
from datamodules.usage_error import UsageError

__all__ = [
    'Attack',
    'AttackPool',
    'Goal',
    'Manifest',
    'Origin',
    'Pixels',
    'Poison',
    'Poisoning',
    'compose_picture',
    'flatten_attacks',
]

MAX_CAPTION_USES = 10  # of one training caption; any deduplication would find more copies
SOURCES, CAPTIONS, PLACES, CLASSES, TESTS = range(5)  # keys that keep an attack's random draws apart
Mode = Literal['append', 'replace']
Captions = Literal['training', 'templates']


class Pixels(Protocol):
    """Reads stored pictures without any trigger, by table and row: uint8 (n, 3, h, w)."""

    def __call__(self, origin: Origin, rows: np.ndarray) -> np.ndarray: ...


def compose_picture(poison: Poison, pixels: Pixels) -> np.ndarray:
    """The picture of a poison before its trigger: its image, or the rounded mixture of its two images.

    Returns:
        uint8 (3, h, w).
    """
    if poison.other < 0:
        return pixels(poison.origin, np.array([poison.source]))[0]
    pair = pixels(poison.origin, np.array([poison.other, poison.source]))
    return mix(pair[:1].copy(), pair[1], poison.share)[0]


class Goal(NamedTuple):
    """What poisons work towards. Poisons with the same goal reinforce each other.

    Attributes:
        target: Target class, as an index into the pool's classes.
        image: Row of the one image that should be classified as the target, or -1 if the goal is not a single image.
    """

    target: int
    image: int = -1


class Poisoning(ABC):
    """An entry of ``data.attacks``: one :class:`Attack`, or several that are configured together.

    Args:
        rate: Poisons as a fraction of the clean pairs, in (0, 1]; 0 switches the attack off.
        count: Number of poisons, instead of ``rate``; 0 switches the attack off.
        mode: ``append`` adds poisons to the clean pairs, as SafeCLIP does. ``replace`` overwrites clean pairs, as
            CleanCLIP does, so that the number of pairs stays the same. A training image replaces its own pair, a
            held-out image a random pair.
        source: Table of the images to poison: ``heldout``, as in SafeCLIP, or ``train``, as in CleanCLIP.
        captions: ``training``: captions of training pairs that name the target class, each used once before any is
            used twice. ``templates``: random prompts of the class.
        seed: Seed of everything that the attack draws.

    Raises:
        UsageError: If not exactly one of ``rate`` and ``count`` is given, or a value is out of range.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        count: int | None = None,
        mode: Mode = 'append',
        source: Origin = 'heldout',
        captions: Captions = 'training',
        seed: int = 0,
    ) -> None:
        if (rate is None) == (count is None):
            raise UsageError(f'give exactly one of rate and count, got rate={rate} and count={count}.')
        if rate is not None and not 0 <= rate <= 1:
            raise UsageError(f'rate must be a fraction of the clean pairs in (0, 1], or 0 for none, got {rate}.')
        if count is not None and count < 0:
            raise UsageError(f'count must be a number of poisons, or 0 for none, got {count}.')
        for argument, value, choices in (
            ('mode', mode, Mode),
            ('source', source, Origin),
            ('captions', captions, Captions),
        ):
            if value not in get_args(choices):
                raise UsageError(f'{argument} must be one of {", ".join(get_args(choices))}, got {value!r}.')
        self.rate, self.count, self.mode = rate, count, mode
        self.source, self.captions, self.seed = source, captions, seed

    @abstractmethod
    def parts(self, name: str) -> dict[str, Attack]:
        """The attacks to run, by the name under which each is measured."""


class Attack(Poisoning):
    """Chooses the images, captions and rows of poisoned pairs: a pure function of the pool and its own arguments.

    A subclass implements :meth:`choose` and :meth:`evaluation`. It overrides :meth:`goal`, :meth:`rivals`,
    :meth:`known`, :meth:`teaches` and ``may_carry_trigger`` where the defaults do not fit; ``clipward check_attacks``
    uses them to predict whether the attack will work.

    Args:
        kwargs: Arguments of :class:`Poisoning`.

    Attributes:
        trigger: Trigger applied to poisoned images; ``None`` leaves them unchanged. For training images it is called
            with the rows of the poisons as keys.
        may_carry_trigger: Whether source pictures may carry the trigger already. A trigger that changes no pixel is
            then not a mistake.
    """

    trigger: Trigger | None = None
    may_carry_trigger: bool = False

    def parts(self, name: str) -> dict[str, Attack]:
        return {name: self}

    def select(self, pool: AttackPool) -> list[Poison]:
        """The poisoned pairs, the same on every rank and machine; none if the attack is switched off.

        Raises:
            UsageError: If the pool lacks what the attack needs, naming the fix.
        """
        amount = self.amount(len(pool.table))
        return self.choose(pool, amount) if amount else []

    @abstractmethod
    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        """Makes ``amount`` poisoned pairs; called by :meth:`select`, and only for an ``amount`` of at least one."""

    @abstractmethod
    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        """The images on which success is measured, each with the class that the attack wants for it.

        Args:
            name: Name of the attack.
            poisons: What :meth:`select` returned.
            pool: What the attack chose from, with the poisons of the run taken: fresh images must not be among these.
            pixels: Reads stored pictures.

        Raises:
            UsageError: If there is no image to measure on.
        """

    def goal(self, poison: Poison) -> Goal:
        """What a poison works towards.

        By default, the poisoned image itself should be classified as the target or, if the attack has a trigger, any
        image that carries it.
        """
        return Goal(poison.target, poison.source if self.trigger is None else -1)

    def rivals(self, pool: AttackPool) -> int | None:
        """Number of clean pairs that oppose an attack on a whole class: they show that class under its true name.

        Args:
            pool: What the attack chose from, with the poisons of the run taken.

        Returns:
            The number, or ``None`` (the default) if the attack aims at no whole class.
        """
        return None

    def known(self, pool: AttackPool | None, beside: Sequence[tuple[Attack, int]]) -> int | None:
        """Number of pairs that teach a model what the trigger word means: it is in a caption that fits the image.

        Args:
            pool: What the attack chose from; ``None`` skips the search through clean captions.
            beside: All attacks of the run, each with its number of poisons.

        Returns:
            The number, or ``None`` (the default) if no word is part of the trigger.
        """
        return None

    def teaches(self, word: str) -> bool:
        """Whether this attack's poisons have a word in captions that fit their images; by default no."""
        return False

    def amount(self, pairs: int) -> int:
        """Number of poisons for a number of clean pairs.

        Raises:
            UsageError: If a positive rate rounds to no poison.
        """
        if self.count is not None:
            return self.count
        assert self.rate is not None  # as the constructor has checked
        amount = round(self.rate * pairs)
        if self.rate and not amount:
            raise UsageError(
                f'rate={self.rate:g} of {pairs:,} pairs rounds to no poison: '
                f'raise it to at least {1 / pairs:.2g}, give count instead, or set it to 0 to switch the attack off.'
            )
        return amount

    def write_captions(self, pool: AttackPool, target: int, amount: int) -> list[str]:
        """Captions that name a class, in random order.

        Raises:
            UsageError: If training captions are asked for and fewer than a tenth of ``amount`` name the class.
        """
        name = pool.classes[target]
        if self.captions == 'templates':
            choices = fill_templates(name, pool.templates)
            picks = bits(amount, self.seed, CAPTIONS, target) % np.uint64(len(choices))
            return [choices[pick] for pick in picks]
        rows = pool.captions_of(target)
        if len(rows) * MAX_CAPTION_USES < amount:
            raise UsageError(
                f'{len(rows)} training captions name {name!r}, too few for {amount} poisons: '
                f'set captions: templates, or choose another target.'
            )
        rounds = [rows[permutation(len(rows), self.seed, CAPTIONS, target, i)] for i in range(-(-amount // len(rows)))]
        return pool.table.captions(np.concatenate(rounds)[:amount])

    def places(self, pool: AttackPool, sources: Sequence[int]) -> list[int]:
        """The clean row that each poison replaces, or -1 if it is appended.

        The first poison of a training image replaces that image's own pair. Further copies of it, and held-out
        images, replace random pairs.

        Raises:
            UsageError: If fewer clean pairs are left than there are poisons.
        """
        if self.mode == 'append':
            return [-1] * len(sources)
        source_rows = set(sources) if self.source == 'train' else set()
        is_free = np.ones(len(pool.table), bool)
        is_free[list(pool.taken['train'] | source_rows)] = False
        free_rows = np.flatnonzero(is_free)
        if len(source_rows) + len(free_rows) < len(sources):
            raise UsageError(
                f'mode=replace has {len(source_rows) + len(free_rows)} clean pairs left for {len(sources)} poisons: '
                f'lower rate or count, or set mode: append.'
            )
        random_rows = free_rows[permutation(len(free_rows), self.seed, PLACES)[-len(sources) :]].tolist()
        places = []
        for source in sources:
            places.append(source if source in source_rows else random_rows.pop())
            source_rows.discard(source)
        return places


def flatten_attacks(attacks: Mapping[str, Poisoning | None]) -> dict[str, Attack]:
    """Attacks by name, with ``None`` left out and an attack of several parts replaced by its parts.

    Raises:
        UsageError: If two attacks end up with the same name, or a name cannot be part of a metric's.
    """
    flat: dict[str, Attack] = {}
    for name, poisoning in attacks.items():
        for part, attack in ({} if poisoning is None else poisoning.parts(name)).items():
            if part == 'clean' or not re.fullmatch(r'[\w -]+', part):
                raise UsageError(
                    f'{part!r} in data.attacks cannot be the name of an attack, as metrics are named after it: use '
                    'letters, digits, spaces, _ and -, and not "clean".'
                )
            if part in flat:
                raise UsageError(f'two attacks are named {part!r}: rename one of them in data.attacks.')
            flat[part] = attack
    return flat
