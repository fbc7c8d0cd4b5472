"""Pairs with a patch, a faint pattern and copies among them, and embeddings as a poisoned CLIP gives them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from datamodules.pictures.batches import OverlaidPictures
from datamodules.pictures.copies import picture_hashes
from tests.helpers.natural import natural_pictures, paste, saved_as_jpeg
from tests.helpers.tiny import unit_rows

CLEAN = 400
PATCHED, PATTERNED, COPIED = np.arange(400, 415), np.arange(415, 430), np.arange(430, 438)
PAIRS, KINDS, WIDTH = 438, 5, 16


class Suspicious(NamedTuple):
    """Pictures of 438 pairs, and embeddings that say nothing about which of them are poisoned.

    Attributes:
        pictures: uint8 (N, 3, 32, 32).
        image: Embeddings of the pictures, unit norm, (N, D).
        text: Those of the captions.
        kind: What each caption names, int64 (N,).
    """

    pictures: np.ndarray
    image: np.ndarray
    text: np.ndarray
    kind: np.ndarray

    @property
    def images(self) -> OverlaidPictures:
        return OverlaidPictures(self.pictures)

    @property
    def hashes(self) -> np.ndarray:
        return picture_hashes(self.images, PAIRS)


def suspicious() -> Suspicious:
    """The pairs. The last eight show one picture, four of them saved anew."""
    draw = np.random.default_rng(0)
    pictures, kind = natural_pictures(PAIRS, 32, seed=0), draw.integers(0, KINDS, PAIRS)
    marked = pictures[PATCHED]
    paste(marked, draw.integers(0, 2, (3, 8, 8), dtype=np.uint8) * 255, seed=1)
    pictures[PATCHED] = marked
    pattern = draw.integers(-30, 31, pictures.shape[1:])
    pictures[PATTERNED] = (pictures[PATTERNED] + pattern).clip(0, 255).astype(np.uint8)
    pictures[COPIED] = pictures[COPIED[0]]
    pictures[COPIED[4:]] = saved_as_jpeg(pictures[COPIED[0]])
    kind[PATCHED], kind[PATTERNED], kind[COPIED] = 1, 2, 3
    image, text = (normalized(np.eye(WIDTH)[kind] + unit_rows(PAIRS, WIDTH, seed=s).numpy()) for s in (1, 2))
    return Suspicious(pictures, image.astype(np.float16), text.astype(np.float16), kind)


def normalized(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
