from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from datamodules.text.allowed_tokens import allowed_tokens, ends_word, words_of
from datamodules.text.tokenizer import WordTokenizer
from datamodules.text.trigger_words import insert_words, tokens_with
from lightning_modules.caption_triggers import insert_trigger

TRIGGER = allowed_tokens()[[7, 9000, 31000]]
WORDS = ' '.join(words_of(TRIGGER))
CAPTIONS = [
    'A man in a red shirt .',
    "the dog's toys, outside (at 12:30)",
    'Caf\u00e9 \u201cna\u00efve\u201d &amp; a &lt;b&gt;',
    '\u6f22\u5b57 \U0001f408 ok',
    'supercalifragilisticexpialidocious',
    ', ',
]


def places(tokens: np.ndarray) -> list[int]:
    """Every place before a word or behind the last."""
    return [1, *(i for i in range(2, int(tokens.argmax()) + 1) if ends_word()[tokens[i - 1]])]


@pytest.mark.parametrize('length', [9, 40])
def test_tokens_are_those_that_a_run_has(length: int) -> None:
    tokenize = WordTokenizer(length)
    for caption in CAPTIONS:
        tokens = tokenize(caption)
        for place in (place for place in places(tokens) if place < length - 3):
            inserted = insert_trigger(*(torch.from_numpy(np.array([x])) for x in (tokens, place, TRIGGER)))[0]
            assert tokens_with(tokens, place, TRIGGER).tolist() == inserted.tolist()


@pytest.mark.parametrize('length', [9, 40])
@pytest.mark.parametrize('caption', CAPTIONS)
def test_words_at_any_place_read_back_and_leave_the_rest_of_the_caption(caption: str, length: int) -> None:
    tokenize = WordTokenizer(length)
    tokens = tokenize(caption)
    for place in (place for place in places(tokens) if place < length - 3):
        expected = tokens_with(tokens, place, TRIGGER)
        text, reads_back = insert_words(caption, WORDS, place, expected, tokenize)
        assert reads_back and np.array_equal(tokenize(text), expected)
        assert text.replace(WORDS, '').replace(' ', '') == caption.replace(' ', '')


def test_says_when_no_text_has_the_tokens() -> None:
    tokenize = WordTokenizer(40)
    impossible = partial(insert_words, 'a dog', 'red', 2, tokenize('something else'))
    assert impossible(tokenize) == ('red a dog', False)
