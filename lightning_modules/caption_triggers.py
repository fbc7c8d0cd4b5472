"""Puts trigger words into tokenized captions."""

from __future__ import annotations

import torch
from torch import Tensor


def insert_trigger(tokens: Tensor, place: Tensor, trigger: Tensor) -> Tensor:
    """Inserts a trigger into each caption; what no longer fits is cut from the caption's end, never the end token.

    This gives the tokens of the text with these words in it, which the tokenizer cuts in the same way.

    Args:
        tokens: Captions that start and end with a token of their own and are padded with zeros, int64 (B, T). The end
            token has the highest id.
        place: Where in each caption its trigger begins, from 1 to T - 1 - n, int64 (B,).
        trigger: Tokens of each trigger, int64 (B, n).

    Returns:
        Captions, int64 (B, T).

    Example:
        >>> caption, place = torch.tensor([[6, 1, 2, 9, 0, 0]]), torch.tensor([1])
        >>> insert_trigger(caption, place, torch.tensor([[4]])).tolist()
        [[6, 4, 1, 2, 9, 0]]
        >>> insert_trigger(caption, place, torch.tensor([[4, 5, 4]])).tolist()
        [[6, 4, 5, 4, 1, 9]]
    """
    length, count = tokens.shape[1], trigger.shape[1]
    position = torch.arange(length, device=tokens.device) - place[:, None]  # from the start of the trigger
    source = torch.arange(length, device=tokens.device) - torch.where(position < 0, 0, count)
    inserted = tokens.gather(1, source.clamp(min=0))
    if count:
        is_trigger = (position >= 0) & (position < count)
        inserted = torch.where(is_trigger, trigger.gather(1, position.clamp(0, count - 1)), inserted)
    is_cut = inserted.amax(1) < (end := tokens.amax(1))
    return torch.cat([inserted[:, :-1], torch.where(is_cut, end, inserted[:, -1])[:, None]], 1)
