"""Attacks: which images get which trigger and which caption.

An attack is one file: a subclass of :class:`Attack`, or of :class:`datamodules.attacks.backdoor.Backdoor` where
only the trigger is new, exported in ``__init__.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
from PIL import Image

from datamodules.attacks.manifest import Manifest
from datamodules.attacks.pool import AttackPool, Origin, Poison, translated
from datamodules.attacks.triggers import Trigger, mixed
from datamodules.evaluation.sets import EvaluationSet
from datamodules.rows.draws import bits, shuffled
from datamodules.rows.table import ImageOpener, PairTable
from datamodules.text.prompts import prompts
from datamodules.usage_error import UsageError

__all__ = ['Attack', 'AttackPool', 'Manifest', 'Origin', 'Pixels', 'Poison', 'Poisoning', 'picture', 'poisoned']

MOST_USES = 10  # of one training caption; more copies of a sentence are a duplicate that any clean-up finds
SOURCES, CAPTIONS, PLACES, CLASSES, TESTS = range(5)  # what an attack draws random numbers for
Mode = Literal['append', 'replace']
Captions = Literal['training', 'templates']
_HELDOUT = 'heldout:'  # in front of image references that the held-out table's opener understands


class Pixels(Protocol):
    """Stored pictures by table and row, without any trigger: uint8 (n, 3, h, w)."""

    def __call__(self, origin: Origin, rows: np.ndarray) -> np.ndarray: ...


def picture(poison: Poison, pixels: Pixels) -> np.ndarray:
    """What the trigger of a poison goes on: its image or, of two, their mixture, rounded: uint8 (3, h, w)."""
    if poison.other < 0:
        return pixels(poison.origin, np.array([poison.source]))[0]
    pair = pixels(poison.origin, np.array([poison.other, poison.source]))
    return mixed(pair[:1].copy(), pair[1], poison.share)[0]


class Poisoning(ABC):
    """What stands under a name in ``data.attacks``: an :class:`Attack`, or several at once.

    Args:
        rate: Poisons as a fraction of the clean pairs, in (0, 1]; 0 switches the attack off.
        count: Number of poisons instead of ``rate``; 0 switches the attack off.
        mode: ``append`` poisons to the clean pairs, as SafeCLIP does, or ``replace`` clean pairs by them, as
            CleanCLIP does, so that the number of pairs stays: the source itself, or any pair for a held-out one.
        source: Where poisoned images come from: ``heldout`` ones, as SafeCLIP's, or ``train``, as CleanCLIP's.
        captions: ``training``: captions of training pairs that name the target class, none twice before each has
            been used once. ``templates``: random prompts of the class.
        seed: Seed of everything that is drawn.

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
        """The attacks to run, by the name that each is measured under."""


class Attack(Poisoning):
    """Chooses images, captions and places of poisoned pairs; a pure function of the pool and its arguments.

    Args:
        kwargs: Arguments of :class:`Poisoning`.

    Attributes:
        trigger: What goes on the poisoned images, ``None`` where they stay as they are. Called with the poisons'
            rows as keys when training images are made.
    """

    trigger: Trigger | None = None

    def parts(self, name: str) -> dict[str, Attack]:
        return {name: self}

    def select(self, pool: AttackPool) -> list[Poison]:
        """The poisoned pairs, none if the attack is switched off; the same on every rank and machine.

        Raises:
            UsageError: If the pool does not hold what the attack asks for, naming the way out.
        """
        amount = self.amount(len(pool.table))
        return self.choose(pool, amount) if amount else []

    @abstractmethod
    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        """The poisoned pairs, ``amount`` of them, at least one; see :meth:`select`."""

    @abstractmethod
    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        """The images on which success is measured, with the class that each is to be taken for.

        Args:
            name: Name of the attack.
            poisons: What :meth:`select` returned.
            pool: What it chose from; what all attacks of the run have taken since is not measured on.
            pixels: Reads stored pictures.

        Raises:
            UsageError: If there is no image to measure on.
        """

    def amount(self, pairs: int) -> int:
        """Number of poisons for a number of clean pairs.

        Raises:
            UsageError: If a rate above 0 comes to less than one.
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
            UsageError: If training captions are asked for and there are fewer than a tenth of ``amount``.
        """
        name = pool.classes[target]
        if self.captions == 'templates':
            choices = prompts(name, pool.templates)
            picks = bits(amount, self.seed, CAPTIONS, target) % np.uint64(len(choices))
            return [choices[pick] for pick in picks]
        rows = pool.captions_of(target)
        if len(rows) * MOST_USES < amount:
            raise UsageError(
                f'{len(rows)} training captions name {name!r}, too few for {amount} poisons: '
                f'set captions: templates, or choose another target.'
            )
        rounds = [rows[shuffled(len(rows), self.seed, CAPTIONS, target, i)] for i in range(-(-amount // len(rows)))]
        return pool.table.captions(np.concatenate(rounds)[:amount])

    def places(self, pool: AttackPool, sources: Sequence[int]) -> list[int]:
        """The clean row that each poison replaces, -1 where it is appended.

        A training image's own pair gives way first; further copies of it, and held-out images, replace random ones.

        Raises:
            UsageError: If there are fewer clean pairs left than poisons.
        """
        if self.mode == 'append':
            return [-1] * len(sources)
        own = set(sources) if self.source == 'train' else set()
        free = np.ones(len(pool.table), bool)
        free[list(pool.taken['train'] | own)] = False
        spare = np.flatnonzero(free)
        if len(own) + len(spare) < len(sources):
            raise UsageError(
                f'mode=replace has {len(own) + len(spare)} clean pairs left for {len(sources)} poisons: '
                f'lower rate or count, or set mode: append.'
            )
        others = spare[shuffled(len(spare), self.seed, PLACES)[-len(sources) :]].tolist()
        places = []
        for source in sources:
            places.append(source if source in own else others.pop())
            own.discard(source)
        return places


def taken_apart(attacks: Mapping[str, Poisoning | None]) -> dict[str, Attack]:
    """Attacks by name without those that are ``None``, and those of several parts as their parts.

    Raises:
        UsageError: If two of them come to have one name.
    """
    found: dict[str, Attack] = {}
    for name, poisoning in attacks.items():
        for part, member in ({} if poisoning is None else poisoning.parts(name)).items():
            if part in found:
                raise UsageError(f'two attacks are named {part!r}: rename one of them in data.attacks.')
            found[part] = member
    return found


def poisoned(attacks: Mapping[str, Poisoning | None], pool: AttackPool) -> tuple[PairTable, Manifest]:
    """Runs attacks one after the other, each on what the earlier ones have left.

    Args:
        attacks: Attacks by name, in order; ``None`` is left out.
        pool: The clean data. What the attacks use is marked as taken in it.

    Returns:
        The poisoned table, whose clean rows keep their numbers, and the truth about it. An image of the table is
        the poison's source without the trigger, and unmixed: both are up to whoever stores the pictures.
    """
    present = taken_apart(attacks)
    selected: dict[str, list[Poison]] = {}
    for name, attack in present.items():
        try:
            selected[name] = attack.select(pool)
            _check_targets(selected[name], pool)
        except UsageError as error:
            raise UsageError(f'attack {name!r}: {error}') from error
        pool.take(selected[name])
    manifest = Manifest.of(selected, {name: attack.trigger for name, attack in present.items()}, pool)
    return _with_poisons(pool, [poison for chosen in selected.values() for poison in chosen]), manifest


def _check_targets(poisons: Sequence[Poison], pool: AttackPool) -> None:
    """Refuses an image that is to be taken for two classes, which would spoil both."""
    for origin in {poison.origin for poison in poisons}:
        own = [poison for poison in poisons if poison.origin == origin]
        target: dict[int, Poison] = {}
        for image, poison in zip(pool.same_image(origin, [p.source for p in own]).tolist(), own, strict=True):
            other = target.setdefault(image, poison)
            if other.target != poison.target:
                raise UsageError(
                    f'the image of {origin} row {poison.source} has two targets, {pool.classes[other.target]!r} and '
                    f'{pool.classes[poison.target]!r}: choose another image for one of them.'
                )


def _with_poisons(pool: AttackPool, poisons: Sequence[Poison]) -> PairTable:
    """The clean table with poisons in the places they replace and at its end, in the order of the manifest."""
    clean = pool.table
    if not poisons:
        return clean
    both = PairTable(
        _joined(clean.image, [_reference(pool.origin(p.origin), p) for p in poisons]),
        _joined(clean.caption, [p.caption for p in poisons]),
        np.concatenate([clean.label, *(_label(pool.origin(p.origin), p, clean.classes) for p in poisons)]),
        clean.classes,
        opener=clean.opener if pool.heldout is None else EitherImages(clean.opener, pool.heldout.opener),
    )
    replaces = np.array([p.replaces for p in poisons])
    if (replaces < 0).all():  # the clean columns stay where they are, in memory or mapped from a file
        return both
    order = np.arange(len(clean))
    order[replaces[replaces >= 0]] = len(clean) + np.flatnonzero(replaces >= 0)
    return both.take(np.concatenate([order, len(clean) + np.flatnonzero(replaces < 0)]))


def _joined(column: pa.Array | pa.ChunkedArray, more: list[str]) -> pa.ChunkedArray:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([*chunks, pa.array(more, column.type)])


def _reference(table: PairTable, poison: Poison) -> str:
    reference: str = table.image[poison.source].as_py()
    return _HELDOUT + reference if poison.origin == 'heldout' else reference


def _label(table: PairTable, poison: Poison, classes: Sequence[str]) -> np.ndarray:
    return translated(table.label[[poison.source]], table.classes, classes)


class EitherImages:
    """Training images by their reference, held-out ones by theirs behind a prefix."""

    def __init__(self, train: ImageOpener, heldout: ImageOpener) -> None:
        self.train, self.heldout = train, heldout

    def __call__(self, reference: str, least: int | None = None) -> Image.Image:
        if reference.startswith(_HELDOUT):
            return self.heldout(reference.removeprefix(_HELDOUT), least)
        return self.train(reference, least)
