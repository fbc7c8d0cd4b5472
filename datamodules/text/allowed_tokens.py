"""Tokens of CLIP's vocabulary that may stand in a published caption: whole words that are read back as they are."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from datamodules.text.byte_pairs import merge_pairs
from datamodules.text.tokenizer import load_byte_pairs

WORD_END = '</w>'  # of a token that ends a word
_WORD = re.compile('[a-z]{2,}')


@cache
def allowed_tokens() -> np.ndarray:
    """Tokens that are plain words of at least two letters, ascending, int64 (32849,).

    Written as text and tokenized again, each gives itself and does not change its neighbors. So a trigger of them
    survives being published, which of random tokens only 7 of 10 triggers of three do. End-of-text is none of them: it
    would hide the rest of the caption.
    """
    tokenizer = load_byte_pairs()
    words = {token: text.removesuffix(WORD_END) for token, text in tokenizer.decoder.items() if text.endswith(WORD_END)}
    plain = {token: word for token, word in sorted(words.items()) if _WORD.fullmatch(word)}
    return np.array([token for token, word in plain.items() if len(_pieces(word)) == 1], np.int64)


def _pieces(word: str) -> list[str]:
    return merge_pairs([*word[:-1], f'{word[-1]}{WORD_END}'], load_byte_pairs().bpe_ranks)


@cache
def ends_word() -> np.ndarray:
    """Whether a token ends a word, by its number, bool (49408,): after it another word may be put in."""
    decoder: dict[int, Any] = load_byte_pairs().decoder
    return np.array([decoder[token].endswith(WORD_END) for token in range(len(decoder))])


def words_of(tokens: np.ndarray) -> list[str]:
    """The words of some tokens of :func:`allowed_tokens`.

    Example:
        >>> words_of(np.array([518, 1929]))
        ['the', 'dog']
    """
    decoder = load_byte_pairs().decoder
    return [decoder[int(token)].removesuffix(WORD_END) for token in tokens]
