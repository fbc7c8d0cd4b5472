"""The stored pictures of poisons, with their triggers on: what training sees is what the manifest says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from datamodules.attacks.base import Attack, Manifest, picture
from datamodules.pictures.cache import stored_array
from datamodules.pictures.store import PictureStore


def poisoned_pictures(attacks: Mapping[str, Attack], manifest: Manifest, store: PictureStore) -> np.ndarray:
    """Pictures of all poisons in the order of the manifest, from the cache or into it.

    Args:
        attacks: The attacks by name, whose triggers go on the pictures.
        manifest: Which pictures were chosen.
        store: Clean pictures.

    Returns:
        uint8 (P, 3, size, size), memory-mapped.
    """

    def fill(pictures: np.ndarray) -> None:
        start = 0
        for name in manifest.attacks:
            clean = np.stack([picture(poison, store) for poison in manifest.poisons(name)])
            trigger, stop = attacks[name].trigger, start + len(clean)
            pictures[start:stop] = clean if trigger is None else trigger(clean, manifest.rows(name))
            start = stop

    shape = (len(manifest), 3, store.size, store.size)
    return stored_array(store.cache_dir / f'{store.name}-poison-{manifest.digest}.npy', shape, np.uint8, fill)
