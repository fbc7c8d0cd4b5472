"""A sheet of protected pictures beside the clean ones, to see what was changed before anything is published."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from datamodules.protection import Protection
from datamodules.publish import choose_rows, protect_captions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = 6
GAIN = 16  # noise of 8 levels then fills the range around mid-gray
COLUMNS = ('clean', f'noise x {GAIN}, gray is none', 'protected')


class ProtectedPair(NamedTuple):
    """A pair before and after.

    Attributes:
        clean: The picture, uint8 (3, h, h).
        protected: The protected picture, uint8 (3, h, h).
        caption: The caption.
        protected_caption: The protected caption.
    """

    clean: np.ndarray
    protected: np.ndarray
    caption: str
    protected_caption: str


def sample_protected_pairs(protection: Protection, count: int = PICTURES, share: float = 1.0) -> list[ProtectedPair]:
    """Some pairs with the noise and the words that a run has found so far, spread evenly over the units of noise.

    Args:
        protection: The pairs and their store, opened.
        count: Number of units; all of them if there are fewer.
        share: Share of the pictures to choose from, drawn as :func:`datamodules.publish.publish` does.
    """
    store, rows = protection.store, np.flatnonzero(choose_rows(protection, share))
    _, first = np.unique(store.unit[rows], return_index=True)
    chosen = rows[first[np.unique(np.linspace(0, len(first) - 1, count).round().astype(np.int64))]]
    clean, noise = protection.data.images(chosen), store.noise(store.unit[chosen])
    protected = (clean.astype(np.int16) + noise).clip(0, 255).astype(np.uint8)
    captions = protect_captions(protection, chosen, np.ones(len(store.unit), bool))
    return [
        ProtectedPair(before, after, caption.clean, caption.protected)
        for before, after, caption in zip(clean, protected, captions, strict=True)
    ]


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert('RGB')).transpose(2, 0, 1)


def enlarge_noise(clean: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The difference of two pictures, 16 times, around mid-gray: uint8, in the shape of both."""
    noise = protected.astype(np.int64) - clean
    return (128 + GAIN * noise).clip(0, 255).astype(np.uint8)


def protection_sheet(pairs: Sequence[ProtectedPair]) -> Figure:
    """Draws each pair as a row: clean, noise and protected, with the caption before and after below.

    Args:
        pairs: The pairs, at least one.
    """
    from matplotlib.figure import Figure  # most commands draw nothing

    figure = Figure((6.6, 2.6 * len(pairs)), layout='constrained')
    for number, (row, pair) in enumerate(zip(figure.subplots(len(pairs), 3, squeeze=False), pairs, strict=True)):
        pictures = pair.clean, enlarge_noise(pair.clean, pair.protected), pair.protected
        texts = pair.caption, '', pair.protected_caption
        for axis, title, picture, text in zip(row, COLUMNS, pictures, texts, strict=True):
            _draw(axis, picture, text, '' if number else title)
    return figure


def _draw(axis: Axes, picture: np.ndarray, text: str, title: str) -> None:
    axis.imshow(picture.transpose(1, 2, 0), interpolation='nearest')
    axis.set_title(title, fontsize=10)
    # Captions are untrusted text: a dollar sign must not start a formula.
    short = textwrap.shorten(text, 110, placeholder=' …')
    axis.set_xlabel(textwrap.fill(short, 32), fontsize=7, parse_math=False)
    axis.set(xticks=[], yticks=[])
