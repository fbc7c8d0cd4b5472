"""CLIP's byte-pair tokens of captions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
from open_clip import SimpleTokenizer

from datamodules.usage_error import UsageError


@cache
def _byte_pairs() -> SimpleTokenizer:
    """open_clip's tokenizer; reading its table takes a quarter of a second."""
    return SimpleTokenizer()


class WordTokenizer:
    """CLIP's byte-pair tokens of a caption, put together from words seen before.

    Equal to ``open_clip.SimpleTokenizer`` for every caption, and many times as fast for rewritten ones: no token
    spans a space, so the tokens of a caption are those of its words, and words repeat.

    Args:
        context_length: Tokens T of a caption, start and end included, at least 2.

    Attributes:
        truncated: Captions that had more tokens than T, counted since the object was made, in this process.
    """

    _MOST_WORDS = 1 << 20  # remembered, some 200 MB; scraped text holds more "words" than any machine memory

    def __init__(self, context_length: int = 77) -> None:
        if context_length < 2:
            raise UsageError(f'context_length must leave room for start and end, at least 2, got {context_length}.')
        self.context_length = context_length
        self.truncated = 0
        self._tokenizer = copy.copy(_byte_pairs())
        self._clean: Callable[[str], str] = self._tokenizer.clean_fn
        self._tokenizer.clean_fn = str  # words are clean already, and cleaning twice is not cleaning once
        self._ids: dict[str, list[int]] = {}

    def __call__(self, caption: str) -> np.ndarray:
        """Tokens of one caption: start, words, end, zeros; int64 (T,). The last token of a cut caption is the end."""
        ids = [self._tokenizer.sot_token_id]
        for word in self._words(caption):
            ids += self._ids.get(word) or self._new(word)
        if len(ids) >= self.context_length:
            self.truncated += 1
            del ids[self.context_length - 1 :]
        ids.append(self._tokenizer.eot_token_id)
        tokens = np.zeros(self.context_length, np.int64)
        tokens[: len(ids)] = ids
        return tokens

    def _words(self, caption: str) -> list[str]:
        """Words after open_clip's cleaning, which leaves printable ASCII without an entity as it is, in lower case."""
        if not caption.isascii() or not caption.isprintable() or '&' in caption:
            caption = self._clean(caption)
        return caption.lower().split()

    def _new(self, word: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(word)
        if len(self._ids) < self._MOST_WORDS:
            self._ids[word] = ids
        return ids
