"""Plants canaries: chooses their words, pictures and captions by a secret seed and appends them to the table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from datamodules.attacks.backdoor import Backdoor
from datamodules.attacks.base import Attack
from datamodules.attacks.canaries import TEST_PICTURES, Canary
from datamodules.attacks.manifest import Manifest
from datamodules.attacks.poisoned_pictures import name_poisoned_pictures, render_poisoned_pictures
from datamodules.attacks.poisoned_table import extend_column, select_poisons
from datamodules.attacks.pool import AttackPool, Poison
from datamodules.evaluation.sets import EvaluationSet
from datamodules.pictures.store import PictureStore
from datamodules.rows.draws import permutation
from datamodules.rows.table import UNKNOWN, Origin, PairTable, Strings
from datamodules.text.class_search import mentions
from datamodules.text.last_words import last_words
from datamodules.usage_error import UsageError

MAX_SHARE = 0.2  # of the pairs; with more, the set would be about its canaries
WORDS = 0  # key that keeps the draw of words apart from those of the canaries
MAX_PROMPTS = 32  # captions that stand for a canary


@dataclass(frozen=True)
class Planted:
    """The canaries of a run. They depend on the pairs as loaded, the filters and the secret seed, but on no attack.

    Attributes:
        attacks: The attack that each canary has made, by name.
        chosen: The pairs of each, whose sources are rows of the pool.
        pool: What they were chosen from: the pairs that are kept, with the planted images taken.
        kept: Row in the clean table of each pair of the pool, int64.
        store: The clean pictures.
        manifest: The pairs of all. Their rows follow the clean table, their sources are rows of it.
    """

    attacks: Mapping[str, Attack]
    chosen: Mapping[str, Sequence[Poison]]
    pool: AttackPool
    kept: np.ndarray
    store: PictureStore
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def rows(self, first: int) -> dict[str, np.ndarray]:
        """Rows of each canary if the planted pairs follow each other from ``first`` on: ascending, int64."""
        offset = first - self.manifest.clean_rows
        return {name: self.manifest.rows(name) + offset for name in self.attacks}

    def append_to(self, table: PairTable, clean: PairTable) -> PairTable:
        """A table with the planted pairs as its last rows, without label or key.

        Args:
            table: All other pairs, poisons included.
            clean: The clean table, which planted pictures come from.
        """
        pictures = clean.image.take(pa.array(self.manifest.table['source'].to_pylist(), pa.int64())).to_pylist()
        return PairTable(
            extend_column(table.image, pictures),
            extend_column(table.caption, self.manifest.table['caption'].to_pylist()),
            np.concatenate([table.label, np.full(len(self), UNKNOWN, table.label.dtype)]),
            table.classes,
            {kind: extend_column(column, [None] * len(self)) for kind, column in table.keys.items()},
            opener=table.opener,
        )

    def captions(self) -> list[list[str]]:
        """Captions that stand for each canary, equally many for all of them."""
        captions = [[poison.caption for poison in self.manifest.poisons(name)] for name in self.attacks]
        count = min(MAX_PROMPTS, *map(len, captions))
        return [of_canary[:count] for of_canary in captions]

    @property
    def picture_cache(self) -> str:
        """Identifies the planted pictures, in the names of caches that are made from them."""
        return name_poisoned_pictures(self.attacks, self.manifest, self.store)

    def pictures(self) -> np.ndarray:
        """Planted pictures in the order of their rows, uint8 (P, 3, size, size), cached like those of poisons."""
        return render_poisoned_pictures(self.attacks, self.manifest, self.store)

    def _read(self, origin: Origin, rows: np.ndarray) -> np.ndarray:
        """Stored pictures of some rows of the pool, uint8 (n, 3, size, size)."""
        return self.store(origin, self.kept[rows] if origin == 'train' else rows)

    @cached_property
    def evaluation(self) -> EvaluationSet:
        """Pictures to measure on: for each canary some that nobody has planted, with its trigger and without.

        Of repeated pictures, the pictures themselves take the place of those with a trigger. ``target`` is the number
        of the canary that a picture is for, ``label`` the same if it carries its trigger or is one of its copies, else
        ``UNKNOWN``.
        """
        sets = []
        for without in (False, True):
            for word, (name, attack) in zip(self.pool.classes, self.attacks.items(), strict=True):
                measured = _without_trigger(word, attack) if without else attack
                sets.append(measured.evaluation(name, self.chosen[name], self.pool, self._read))
        sizes = np.array([*map(len, sets)]).reshape(2, -1)
        target = np.repeat(np.tile(np.arange(len(self.attacks)), 2), sizes.ravel())
        label = np.where(np.arange(len(target)) < sizes[0].sum(), target, UNKNOWN)

        def pictures() -> np.ndarray:
            return np.concatenate([each.images for each in sets])

        return EvaluationSet('canaries', pictures, label, target, self.pool.classes, ())


def plant(
    canaries: Mapping[str, Canary],
    clean: PairTable,
    heldout: PairTable | None,
    kept: np.ndarray,
    store: PictureStore,
    secret: int,
) -> Planted:
    """Chooses the pairs to plant, all of them copies of training pictures with captions of other pairs.

    Args:
        canaries: Canaries by name, at least one.
        clean: The training pairs as loaded.
        heldout: Pairs outside of them, to measure on, or ``None``.
        kept: Rows of the clean table that are trained on, ascending, int64.
        store: The clean pictures.
        secret: Seed of everything that is drawn.

    Raises:
        UsageError: If there are too few pairs, or too few words in their captions.
    """
    amounts = [canary.amount(len(kept)) for canary in canaries.values()]
    if sum(amounts) > MAX_SHARE * len(kept):
        raise UsageError(
            f'data.canaries plants {sum(amounts)} pairs, but at most {MAX_SHARE:.0%} of {len(kept):,} may be canaries: '
            f'set at_least of each to {int(MAX_SHARE * len(kept) / len(canaries))} or less, or leave some out.'
        )
    table = clean if len(kept) == len(clean) else clean.take(kept)
    words = choose_words(table.caption, len(canaries), max(amounts), secret)
    made = zip(canaries.items(), words, amounts, strict=True)
    attacks = {
        name: canary.attack(word, amount, store.size, _hash(secret, name)) for (name, canary), word, amount in made
    }
    taken: dict[Origin, set[int]] = {'train': set(), 'heldout': set(store.unreadable['heldout'])}
    pool = AttackPool(table, heldout, words, taken=taken)
    chosen = select_poisons(attacks, pool, 'data.canaries:')
    of_clean = {name: [p._replace(source=int(kept[p.source])) for p in poisons] for name, poisons in chosen.items()}
    triggers = {name: attack.trigger for name, attack in attacks.items()}
    return Planted(
        attacks, chosen, pool, kept, store, Manifest.of(of_clean, triggers, AttackPool(clean, heldout, words))
    )


def choose_words(captions: Strings, count: int, uses: int, secret: int) -> tuple[str, ...]:
    """Draws the words that canaries are to mean: each ends enough captions, and no caption can mean two by one word.

    Args:
        captions: Captions of the pairs that are trained on.
        count: Words to draw.
        uses: Captions that each must end, so that a canary uses none twice.
        secret: Seed of the draw.

    Raises:
        UsageError: If there are too few such words.
    """
    chosen: list[str] = []
    for after_article in (True, False):  # other words only where there are too few nouns
        found = last_words(captions, uses, len(captions) // 2, after_article)
        for word in (found[number] for number in permutation(len(found), secret, WORDS)):
            if len(chosen) < count and not any(_name_each_other(word, other) for other in chosen):
                chosen.append(word)
    if len(chosen) < count:
        raise UsageError(
            f'data.canaries needs {count} words that end {uses} or more captions each, and the captions have '
            f'{len(chosen)}: lower at_least of its canaries, or leave some or all of them out.'
        )
    return tuple(chosen)


def _name_each_other(word: str, other: str) -> bool:
    """Whether one word is the plural of the other."""
    return bool(mentions(pa.array([word]), other)[0] or mentions(pa.array([other]), word)[0])


def _without_trigger(word: str, attack: Attack) -> Attack:
    """An attack that is measured on the same pictures without any trigger."""
    return Backdoor(word, None, TEST_PICTURES, count=0, seed=attack.seed)


def secret_seed(seed: int, fingerprint: str) -> int:
    """The seed of canaries where none is given: drawn from the seed of the data and the pairs as loaded."""
    return _hash(seed, fingerprint)


def _hash(*parts: int | str) -> int:
    """32 bits that nobody can predict without knowing all parts."""
    return int.from_bytes(hashlib.sha256('\0'.join(map(str, parts)).encode()).digest()[:4], 'little')
