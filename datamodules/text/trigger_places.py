"""Where in each caption the words of a trigger go."""

from __future__ import annotations

from typing import Literal

import numpy as np

from datamodules.rows.draws import fractions
from datamodules.text.allowed_tokens import ends_word
from datamodules.usage_error import UsageError

Place = Literal['start', 'end', 'random']


def trigger_places(
    tokens: np.ndarray, place: Place, length: int, seed: int, used: np.ndarray | bool = True
) -> np.ndarray:
    """Position of the first word of each caption's trigger, int32 (N,); 1 is that before the caption's first word.

    Args:
        tokens: Captions in CLIP's tokens, (N, T).
        place: ``start``, ``end``, or ``random``: before any word or after the last.
        length: Number n of tokens of a trigger.
        seed: Seed of random places.
        used: Which captions get a trigger, bool (N,), or all; others need not leave room for it.

    Raises:
        UsageError: If a trigger does not fit into the context, or behind a caption.
    """
    context = tokens.shape[1]
    if length > context - 3:  # beside start, end and a token of the caption
        raise UsageError(
            f'model.trigger_length={length} leaves no room for a caption in the {context} tokens that the model reads: '
            f'lower it, at most {context - 3}.'
        )
    end = tokens.argmax(1).astype(np.int32)  # which has the highest number
    if place == 'start' or not length:
        return np.ones(len(tokens), np.int32)
    if place == 'end':
        _check_room(np.where(used, end, 0), context - 1 - length, length, context)
        return end
    return _random_places(tokens, end, context - 1 - length, seed)


def cut_by_trigger(tokens: np.ndarray, length: int) -> int:
    """Number of captions whose last tokens no longer fit once a trigger is put in."""
    return int((tokens.argmax(1) + length >= tokens.shape[1]).sum()) if length else 0


def _check_room(end: np.ndarray, last: int, length: int, context: int) -> None:
    full = np.flatnonzero(end > last)
    if len(full):
        raise UsageError(
            f'{len(full):,} captions, first that of row {full[0]}, leave no room for {length} words behind them in the '
            f'{context} tokens that the model reads: set model.trigger_place=start, shorten them, or drop them with '
            f'data.filters.'
        )


def _random_places(tokens: np.ndarray, end: np.ndarray, last: int, seed: int) -> np.ndarray:
    """Draws one of the places before a word or behind the last one, of those that leave room for the trigger."""
    position = np.arange(1, tokens.shape[1])
    is_place = ends_word()[tokens[:, :-1]]  # behind a word
    is_place[:, 0] = True  # behind the start
    is_place &= (position <= end[:, None]) & (position <= last)
    number = (fractions(len(tokens), seed) * is_place.sum(1)).astype(np.int64)
    return (1 + (is_place.cumsum(1) > number[:, None]).argmax(1)).astype(np.int32)
