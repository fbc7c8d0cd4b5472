"""The poisoned table: clean pairs, the poisons of every attack, and a manifest that says which is which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datamodules.attacks.base import Attack, Poisoning, flatten_attacks
from datamodules.attacks.manifest import Manifest
from datamodules.attacks.pool import AttackPool, Poison, translate_labels
from datamodules.rows.table import ImageOpener, PairTable, Strings
from datamodules.usage_error import UsageError

_HELDOUT_PREFIX = 'heldout:'  # marks image references that only the held-out table's opener understands


def poison_table(attacks: Mapping[str, Poisoning | None], pool: AttackPool) -> tuple[PairTable, Manifest]:
    """Runs the attacks in order, each on the images that earlier ones have left.

    Pixels are not changed here: triggers and mixtures are applied when the pictures of poisons are cached.

    Args:
        attacks: Attacks by name, in order; ``None`` is skipped.
        pool: The clean data. Images that the attacks use are marked as taken in it.

    Returns:
        The poisoned table, whose clean rows keep their numbers, and the manifest of its poisons.

    Raises:
        UsageError: If an attack cannot find what it needs, naming the attack and the fix.
    """
    present = flatten_attacks(attacks)
    selected = select_poisons(present, pool, 'attack')
    manifest = Manifest.of(selected, {name: attack.trigger for name, attack in present.items()}, pool)
    return _insert_poisons(pool, [poison for chosen in selected.values() for poison in chosen]), manifest


def select_poisons(attacks: Mapping[str, Attack], pool: AttackPool, kind: str) -> dict[str, list[Poison]]:
    """The poisons of each attack, chosen in order; their images are then marked as taken in the pool.

    Raises:
        UsageError: If an attack cannot find what it needs, naming its ``kind``, its name and the fix.
    """
    selected: dict[str, list[Poison]] = {}
    for name, attack in attacks.items():
        try:
            selected[name] = attack.select(pool)
            _check_targets(selected[name], pool)
        except UsageError as error:
            raise UsageError(f'{kind} {name!r}: {error}') from error
        pool.take(selected[name])
    return selected


def _check_targets(poisons: Sequence[Poison], pool: AttackPool) -> None:
    """Refuses an attack that wants one image to be taken for two classes: each target would spoil the other."""
    for origin in {poison.origin for poison in poisons}:
        from_origin = [poison for poison in poisons if poison.origin == origin]
        first_poison: dict[int, Poison] = {}
        images = pool.same_image(origin, [poison.source for poison in from_origin]).tolist()
        for image, poison in zip(images, from_origin, strict=True):
            first = first_poison.setdefault(image, poison)
            if first.target != poison.target:
                raise UsageError(
                    f'the image of {origin} row {poison.source} has two targets, {pool.classes[first.target]!r} and '
                    f'{pool.classes[poison.target]!r}: choose another image for one of them.'
                )


def _insert_poisons(pool: AttackPool, poisons: Sequence[Poison]) -> PairTable:
    """The clean table with poisons in the rows that they replace, then the appended ones in manifest order."""
    clean = pool.table
    if not poisons:
        return clean
    both = PairTable(
        extend_column(clean.image, [_format_reference(pool.origin(p.origin), p) for p in poisons]),
        extend_column(clean.caption, [p.caption for p in poisons]),
        _extend_label(pool, poisons) if clean.classes else None,
        clean.classes,
        {kind: extend_column(column, _replaced_keys(column, poisons)) for kind, column in clean.keys.items()},
        opener=clean.opener if pool.heldout is None else EitherImages(clean.opener, pool.heldout.opener),
    )
    replaces = np.array([p.replaces for p in poisons])
    if (replaces < 0).all():  # the clean columns stay where they are, in memory or mapped from a file
        return both
    order = np.arange(len(clean))
    order[replaces[replaces >= 0]] = len(clean) + np.flatnonzero(replaces >= 0)
    return both.take(np.concatenate([order, len(clean) + np.flatnonzero(replaces < 0)]))


def _replaced_keys(column: Strings, poisons: Sequence[Poison]) -> list[str | None]:
    """Keys of the pairs that poisons replace; an appended poison is on nobody's list."""
    return [column[poison.replaces].as_py() if poison.replaces >= 0 else None for poison in poisons]


def extend_column(column: Strings, more: Sequence[str | None]) -> pa.ChunkedArray:
    """A column of strings with more of them at its end, without copying those it has."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([*chunks, pa.array(more, column.type)])


def _extend_label(pool: AttackPool, poisons: Sequence[Poison]) -> np.ndarray:
    classes = pool.table.classes
    return np.concatenate([pool.table.label, *(_translate_label(pool.origin(p.origin), p, classes) for p in poisons)])


def _format_reference(table: PairTable, poison: Poison) -> str:
    reference: str = table.image[poison.source].as_py()
    return _HELDOUT_PREFIX + reference if poison.origin == 'heldout' else reference


def _translate_label(table: PairTable, poison: Poison, classes: Sequence[str]) -> np.ndarray:
    return translate_labels(table.label[[poison.source]], table.classes, classes)


class EitherImages:
    """Opens training images by their reference, and held-out images by their reference behind a prefix."""

    def __init__(self, train: ImageOpener, heldout: ImageOpener) -> None:
        self.train, self.heldout = train, heldout

    def __call__(self, reference: str, min_side: int | None = None) -> Image.Image:
        if reference.startswith(_HELDOUT_PREFIX):
            return self.heldout(reference.removeprefix(_HELDOUT_PREFIX), min_side)
        return self.train(reference, min_side)

    def names(self, references: Strings) -> Strings:
        """Names of the pictures, which each opener knows for its own references."""
        named = [getattr(opener, 'names', _same)(references) for opener in (self.heldout, self.train)]
        return pc.if_else(pc.starts_with(references, _HELDOUT_PREFIX), *named)


def _same(references: Strings) -> Strings:
    return references
