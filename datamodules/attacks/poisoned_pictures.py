"""The stored pictures of poisons with their triggers on: training sees exactly what the manifest describes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.attacks.base import Attack, Manifest, Poison, compose_picture
from datamodules.files.array_cache import stored_array
from datamodules.pictures.store import PictureStore

_SAMPLES = 4  # poisons of each attack that name the cache


def render_poisoned_pictures(attacks: Mapping[str, Attack], manifest: Manifest, store: PictureStore) -> np.ndarray:
    """Pictures of all poisons with their triggers, in manifest order, read from the cache or rendered into it.

    Args:
        attacks: Attacks by name, whose triggers go on the pictures.
        manifest: The poisons that the attacks have chosen.
        store: Clean pictures.

    Returns:
        uint8 (P, 3, size, size), memory-mapped.
    """

    def fill(pictures: np.ndarray) -> None:
        start = 0
        for name in manifest.attacks:
            rendered = _render(attacks[name], manifest.poisons(name), manifest.rows(name), store)
            pictures[start : start + len(rendered)] = rendered
            start += len(rendered)

    shape = (len(manifest), 3, store.size, store.size)
    path = store.cache_dir / f'{name_poisoned_pictures(attacks, manifest, store)}.npy'
    return stored_array(path, shape, np.uint8, fill)


def name_poisoned_pictures(attacks: Mapping[str, Attack], manifest: Manifest, store: PictureStore) -> str:
    """Names the cache of the poisons' pictures, without extension.

    It depends on the clean pictures, the manifest, and the first poisons of each attack as they are rendered now, which
    tell whether the code of a trigger was changed.
    """
    rendered = hashlib.sha256()
    for name in manifest.attacks:
        poisons, rows = manifest.poisons(name)[:_SAMPLES], manifest.rows(name)[:_SAMPLES]
        rendered.update(_render(attacks[name], poisons, rows, store).tobytes())
    return f'{store.name}-poison-{manifest.digest}-{rendered.hexdigest()[:8]}'


def _render(attack: Attack, poisons: Sequence[Poison], rows: np.ndarray, store: PictureStore) -> np.ndarray:
    """Pictures of poisons with their trigger, uint8 (n, 3, size, size)."""
    clean = np.stack([compose_picture(poison, store) for poison in poisons])
    return clean if attack.trigger is None else attack.trigger(clean, rows)
