"""The stored pictures of poisons with their triggers on: training sees exactly what the manifest describes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from datamodules.attacks.base import Attack, Manifest, compose_picture
from datamodules.files.array_cache import stored_array
from datamodules.pictures.store import PictureStore


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
            clean = np.stack([compose_picture(poison, store) for poison in manifest.poisons(name)])
            trigger, stop = attacks[name].trigger, start + len(clean)
            pictures[start:stop] = clean if trigger is None else trigger(clean, manifest.rows(name))
            start = stop

    shape = (len(manifest), 3, store.size, store.size)
    return stored_array(store.cache_dir / f'{store.name}-poison-{manifest.digest}.npy', shape, np.uint8, fill)
