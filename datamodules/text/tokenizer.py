"""Captions as tokens: CLIP's byte-pair encoding (BPE) with a memory for words, and the tokenizers of other models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol

import numpy as np

from datamodules.files.reading import MAX_CAPTION_CHARACTERS
from datamodules.text.byte_pairs import Ranks, merge_pairs
from datamodules.usage_error import UsageError


@cache
def load_byte_pairs() -> Any:
    """Loads open_clip's tokenizer once, which takes a quarter of a second."""
    from open_clip import SimpleTokenizer  # takes seconds to import

    return SimpleTokenizer()


def _merge_word(word: str, ranks: Ranks, special: frozenset[str]) -> str:
    """Splits a word into its tokens, separated by spaces, as open_clip's tokenizer expects them."""
    return word if word in special else ' '.join(merge_pairs([*word[:-1], f'{word[-1]}</w>'], ranks))


class WordTokenizer:
    """CLIP's byte-pair tokenizer, which remembers the tokens of words.

    Gives the tokens of ``open_clip.SimpleTokenizer`` for every caption of up to 10,000 characters, many times as fast,
    and cuts a longer one there. No token spans a space, so the tokens of a caption are those of its words, and words
    repeat.

    Args:
        context_length: Number of tokens T of a caption, start and end included, at least 2.

    Attributes:
        identity: Tells the tokens from those of other tokenizers, for the names of caches; empty for CLIP's.
        truncated: Number of captions with more than T tokens so far, in this process.

    Example:
        >>> tokenize = WordTokenizer(context_length=6)
        >>> tokenize('a dog').tolist()  # start, two words, end, padding
        [49406, 320, 1929, 49407, 0, 0]
    """

    identity = ''
    _MAX_REMEMBERED_WORDS = 1 << 20  # about 200 MB; scraped text contains more different words than fit into memory
    _MAX_REMEMBERED_LETTERS = 100  # of a word

    def __init__(self, context_length: int = 77) -> None:
        if context_length < 2:
            raise UsageError(f'context_length must leave room for start and end, at least 2, got {context_length}.')
        self.context_length = context_length
        self.truncated = 0
        self._tokenizer = copy.copy(load_byte_pairs())
        self._clean: Callable[[str], str] = self._tokenizer.clean_fn
        self._tokenizer.clean_fn = str  # words are clean already, and cleaning them again could change them
        # open_clip's own takes time that grows with the square of a word, and remembers every word for ever.
        special = frozenset(self._tokenizer.decoder[number] for number in self._tokenizer.all_special_ids)
        self._tokenizer.bpe = partial(_merge_word, ranks=self._tokenizer.bpe_ranks, special=special)
        self._ids: dict[str, list[int]] = {}

    def __call__(self, caption: str) -> np.ndarray:
        """Tokenizes a caption: start, words, end, zeros; int64 (T,). A truncated caption also ends with the end."""
        ids = [self._tokenizer.sot_token_id]
        for word in self._split(caption[:MAX_CAPTION_CHARACTERS]):
            ids += self._ids.get(word) or self._encode(word)
        if len(ids) >= self.context_length:
            self.truncated += 1
            del ids[self.context_length - 1 :]
        ids.append(self._tokenizer.eot_token_id)
        tokens = np.zeros(self.context_length, np.int64)
        tokens[: len(ids)] = ids
        return tokens

    def _split(self, caption: str) -> list[str]:
        """Splits a caption into words after open_clip's cleaning, which does not change plain ASCII without ``&``."""
        if not caption.isascii() or not caption.isprintable() or '&' in caption:
            caption = self._clean(caption)
        return caption.lower().split()

    def _encode(self, word: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(word)
        if len(word) <= self._MAX_REMEMBERED_LETTERS and len(self._ids) < self._MAX_REMEMBERED_WORDS:
            self._ids[word] = ids
        return ids


class OwnTokenizer(Protocol):
    """The tokenizer of a model that does not use CLIP's; ``lightning_modules.towers.Tokenizer`` is one.

    Attributes:
        identity: Tells it from other tokenizers.
    """

    @property
    def identity(self) -> str: ...

    def tokenize(self, caption: str, context_length: int) -> Any:
        """Tokens of a caption, int64 (1, T)."""


class ModelTokenizer:
    """The tokenizer of a model, with the interface of :class:`WordTokenizer`.

    Args:
        tokenizer: The model's tokenizer.
        context_length: Number of tokens T of a caption.
    """

    def __init__(self, tokenizer: OwnTokenizer, context_length: int) -> None:
        self.context_length, self.identity, self.truncated = context_length, tokenizer.identity, 0
        self._tokenize = tokenizer.tokenize
        self._padding = int(self._tokenize('', context_length + 1)[0, -1])

    def __call__(self, caption: str) -> np.ndarray:
        """Tokenizes a caption: int64 (T,)."""
        caption = caption[:MAX_CAPTION_CHARACTERS]
        self.truncated += int(self._tokenize(caption, self.context_length + 1)[0, -1]) != self._padding
        tokens: np.ndarray = self._tokenize(caption, self.context_length)[0].numpy()
        return tokens
