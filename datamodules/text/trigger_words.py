"""Puts trigger words into the text of captions, so that a tokenizer reads the tokens that they were searched for."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator

import numpy as np

Tokenize = Callable[[str], np.ndarray]
_WORD = re.compile(r'\S+')


def tokens_with(tokens: np.ndarray, place: int, trigger: np.ndarray) -> np.ndarray:
    """Tokens of one caption with a trigger in it, (T,), as :func:`lightning_modules.caption_triggers.insert_trigger`.

    Args:
        tokens: The caption, (T,); its end has the highest number.
        place: Position of the trigger.
        trigger: Its tokens, (n,).
    """
    inserted: np.ndarray = np.insert(tokens, place, trigger)[: len(tokens)]
    if tokens.max() not in inserted:
        inserted[-1] = tokens.max()
    return inserted


def insert_words(caption: str, words: str, place: int, expected: np.ndarray, tokenize: Tokenize) -> tuple[str, bool]:
    """Puts the words of a trigger into a caption, and says whether the result is read as it should be.

    Args:
        caption: Text of the caption.
        words: Words of the trigger, with spaces between them.
        place: Position of the trigger among the caption's tokens.
        expected: Tokens that the result should have, (T,).
        tokenize: Maps a caption to its tokens, (T,).

    Returns:
        The caption with the words, and whether it has the expected tokens. If it cannot have them, as the text between
        two of its tokens may belong to both, the words are at its start.

    Example:
        >>> from datamodules.text.tokenizer import WordTokenizer
        >>> tokenize = WordTokenizer(8)
        >>> insert_words('a dog, outside', 'red boat', 3, tokenize('a dog red boat, outside'), tokenize)
        ('a dog red boat , outside', True)
    """
    for split in _splits(caption, place - 1, tokenize):
        text = ' '.join(part for part in (caption[:split].rstrip(), words, caption[split:].lstrip()) if part)
        if np.array_equal(tokenize(text), expected):
            return text, True
    return f'{words} {caption}', False


def _splits(caption: str, before: int, tokenize: Tokenize) -> Iterator[int]:
    """Where a caption may be split so that a number of its tokens come before: between words, else within one."""
    ends = [0, *(word.end() for word in _WORD.finditer(caption))]

    def count(end: int) -> int:
        return int(tokenize(caption[:end]).argmax()) - 1  # the start is no word

    first = bisect_left(ends, before, key=count)
    if first < len(ends):
        yield ends[first]
        yield from range(ends[first] - 1, ends[max(0, first - 1)], -1)
