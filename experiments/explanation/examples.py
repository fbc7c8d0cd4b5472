"""Held-out pictures with their captions, to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from callbacks.retrieval import number_pictures
from datamodules.pairs import PairsDataModule
from datamodules.pictures.cache import decode_pictures
from datamodules.pictures.views import clean_view
from datamodules.rows.draws import permutation
from datamodules.text.tokenizer import load_byte_pairs
from datamodules.usage_error import UsageError

PICTURES, CAPTIONS = 10, 5  # of the map, as in the paper


@dataclass(frozen=True)
class Examples:
    """Pictures and their captions.

    Attributes:
        picture: The pictures as they are stored, uint8 (P, 3, h, h).
        image: The same as a model takes them, (P, 3, H, H).
        tokens: Captions, int64 (N, T), those of a picture together.
        owner: Picture of each caption, ascending, int64 (N,).
    """

    picture: np.ndarray
    image: Tensor
    tokens: Tensor
    owner: np.ndarray

    def first_caption(self, count: int) -> np.ndarray:
        """Number of the first caption of each of the first pictures, (count,)."""
        return np.searchsorted(self.owner, np.arange(count))


def draw_examples(data: PairsDataModule, seed: int) -> Examples:
    """Draws ten held-out pictures and up to five captions of each.

    Args:
        data: The data, adapted to the model; only these pictures are decoded.
        seed: Seed of the draw.

    Raises:
        UsageError: If the data holds out fewer pictures, or not all can be read.
    """
    assert data.image_size is not None
    table = data.heldout
    number = np.empty(0, np.int64) if table is None else number_pictures(table)
    drawn = permutation(int(number.max(initial=-1)) + 1, seed)[:PICTURES]
    if table is None or len(drawn) < PICTURES:
        raise UsageError(
            f'explain shows {PICTURES} held-out pictures, and {type(data).__name__} holds out {len(drawn)}: give it '
            f'more, see data.help.'
        )
    rows = [np.flatnonzero(number == picture)[:CAPTIONS] for picture in drawn]
    first = np.array([captions[0] for captions in rows])
    pictures, readable = decode_pictures(table.take(first), data.stored_size, data.cache_dir, data.num_workers)
    if not readable.all():
        broken = [str(name) for name in table.take(first).names().to_pylist()][int(np.argmin(readable))]
        raise UsageError(f'{broken} cannot be read: draw other pictures with another seed.')
    tokens = np.stack([data.tokenizer(caption) for caption in table.captions(np.concatenate(rows))])
    owner = np.repeat(np.arange(PICTURES), [len(captions) for captions in rows])
    image = clean_view(torch.from_numpy(np.array(pictures)), data.image_size)
    return Examples(np.array(pictures), image, torch.from_numpy(tokens.astype(np.int64)), owner)


def words_in(tokens: Tensor) -> list[str]:
    """The text of each token between start and end of a caption of CLIP's tokens, (T,)."""
    decode = load_byte_pairs().decode
    return [decode([token]).strip() for token in tokens[1 : int(tokens.argmax())].tolist()]
